"""Log-probs of a batch's scored targets, the common part of SFT and preference steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.kernels.token_logprobs import PLAIN, Distribution, TokenStats, token_logprobs
from pivot_jax.models.language_model import LanguageModel, head_matrix


def score(
    model: LanguageModel,
    params: dict[str, Any],
    batch: Any,
    image_features: Any = None,
    distribution: Distribution = PLAIN,
    *,
    entropy_gradient: bool = False,
    squares: bool = False,
) -> TokenStats:
    """Statistics of ``batch.targets``, float32 [b, t]; the vocabulary projection runs over targets only.

    The log-probs of padding (``batch.weights`` is 0) are 0.

    Args:
      model: an MLLM, or a language model alone.
      image_features: [b, k*m*p, d] to use instead of encoding the images (gradient maps differentiate in them).
      distribution: temperature and banned tokens, for responses that were sampled so.
      entropy_gradient: the entropies carry gradients too.
      squares: ``log_sum_sq`` too.
    """
    states = target_states(model, params, batch, image_features)
    return score_states(params, states, batch, distribution, entropy_gradient=entropy_gradient, squares=squares)


def target_states(model: LanguageModel, params: dict[str, Any], batch: Any, image_features: Any = None) -> Any:
    """The decoder's closing-norm states that predict ``batch.targets``, [b, t, d]. Arguments as of :func:`score`."""
    hidden: Any = model.apply({"params": params}, batch, image_features, method="hidden")
    return _of_targets(hidden, batch)


def target_states_and_similarity(model: LanguageModel, params: dict[str, Any], batch: Any) -> tuple[Any, Any]:
    """:func:`target_states`, and from the same forward pass the similarity of each target to the row's image tokens.

    float32 [b, t], of the state at the target's own position (``LanguageModel.hidden_and_similarity``). The rows are
    those of ``branches.group_row`` whose prompts have no targets of their own: after the prompt come all targets.
    """
    found: Any = model.apply({"params": params}, batch, method="hidden_and_similarity")
    hidden, similarity = found
    own = batch.sources[:, :1] + 1 + jnp.arange(batch.targets.shape[1])
    of_targets = jnp.take_along_axis(similarity, jnp.minimum(own, similarity.shape[1] - 1), axis=1)
    return _of_targets(hidden, batch), of_targets


def _of_targets(hidden: Any, batch: Any) -> Any:
    return jnp.take_along_axis(hidden, batch.sources[:, :, None], axis=1)


def score_states(
    params: dict[str, Any],
    states: Any,
    batch: Any,
    distribution: Distribution = PLAIN,
    *,
    entropy_gradient: bool = False,
    squares: bool = False,
) -> TokenStats:
    """:func:`score` from states that are computed already, where something else reads them too (a value head).

    Args:
      states: [b, t, d], of :func:`target_states`.
    """
    shape = batch.targets.shape
    stats = token_logprobs(
        states.reshape(-1, states.shape[-1]),
        head_matrix(params),
        batch.targets.reshape(-1),
        distribution=distribution,
        entropy_gradient=entropy_gradient,
        squares=squares,
    )
    # The targets of padding are no tokens: no caller should sum their log-probs by mistake.
    logps = jnp.where(batch.weights > 0, stats.logps.reshape(shape), 0.0)
    return jax.tree.map(lambda values: values.reshape(shape), stats).replace(logps=logps)


def answer_weights(batch: Any, answers: int = 2) -> Any:
    """float32 [b, t, k, answers]: weight of each target in each answer (branch 1, 2, ...) of each of k rows.

    Targets of branch 0 (prompt) count in all answers of their row; they cancel in every loss that compares answers.
    """
    rows, branches = batch.target_rows[:, :, None, None], batch.target_branches[:, :, None, None]
    own = rows == jnp.arange(batch.row_index.shape[1])[:, None]
    return batch.weights[:, :, None, None] * (own & ((branches == 0) | (branches == 1 + jnp.arange(answers))))


def answer_logps(stats: TokenStats, batch: Any, answers: int = 2) -> Any:
    """Summed log-probs of each row's answers, chosen and rejected or a group's: float32 [b, k, answers]."""
    return answer_sums(stats.logps, batch, answers)


def answer_sums(values: Any, batch: Any, answers: int = 2) -> Any:
    """Values of each target, float32 [b, t], summed over each row's answers: float32 [b, k, answers]."""
    weights = answer_weights(batch, answers)
    return jnp.einsum("bt,btkr->bkr", values, weights, precision=jax.lax.Precision.HIGHEST)
