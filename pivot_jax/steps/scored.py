"""Log-probs of a batch's scored targets, the common part of SFT and preference steps."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pivot_jax.kernels.token_logprobs import TokenStats, token_logprobs
from pivot_jax.models.mllm import MLLM, head_matrix


def score(mllm: MLLM, params: dict[str, Any], batch: Any, image_features: Any = None) -> TokenStats:
    """Statistics of ``batch.targets``, float32 [b, t]; the vocabulary projection runs over targets only.

    Args:
      image_features: [b, k*m*p, d] to use instead of encoding the images (gradient maps differentiate in them).
    """
    hidden: Any = mllm.apply({"params": params}, batch, image_features, method="hidden")
    picked = jnp.take_along_axis(hidden, batch.sources[:, :, None], axis=1)
    stats = token_logprobs(picked.reshape(-1, picked.shape[-1]), head_matrix(params), batch.targets.reshape(-1))
    shape = batch.targets.shape
    return TokenStats(*(getattr(stats, name).reshape(shape) for name in ("logps", "entropy", "correct", "mean_logit")))


def answer_weights(batch: Any) -> Any:
    """float32 [b, t, k, 2]: weight of each target in the chosen and in the rejected answer of each of k rows.

    Targets of branch 0 (prompt) count in both answers of their row; they cancel in every pairwise loss.
    """
    rows, branches = batch.target_rows[:, :, None, None], batch.target_branches[:, :, None, None]
    own = rows == jnp.arange(batch.row_index.shape[1])[:, None]
    return batch.weights[:, :, None, None] * (own & ((branches == 0) | (branches == jnp.asarray([1, 2]))))
