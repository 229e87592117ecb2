"""Multiple choice without the answer's format: the option that the model finds most likely, whatever it would write.

All options of a question are in one row after the shared prompt, each in its own branch
(``data.processing.branches``), collated like any training row.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.models.logprobs import answer_logps, answer_weights, score
from pivot_jax.models.mllm import MLLM

Array = jax.Array
NORMALISATIONS = ("sum", "mean", "prior")


def option_logps(mllm: MLLM, params: Any, batch: Any, max_options: int) -> tuple[np.ndarray, np.ndarray]:
    """Summed log-probability and token count of each option of each row.

    Args:
      batch: ``VLMBatch`` collated from rows of ``data.processing.branches.group_row``, one in each sequence.

    Returns:
      float32 [b, max_options] sums (-inf where a row has fewer options) and int32 [b, max_options] counts.
    """
    sums, counts = _option_logps(mllm, max_options, params, batch)
    return np.asarray(sums), np.asarray(counts)


@partial(jax.jit, static_argnums=(0, 1))
def _option_logps(mllm: MLLM, max_options: int, params: Any, batch: Any) -> tuple[Array, Array]:
    counts = jnp.sum(answer_weights(batch, max_options)[:, :, 0] > 0, axis=1, dtype=jnp.int32)
    sums = answer_logps(score(mllm, params, batch), batch, max_options)[:, 0]
    return jnp.where(counts > 0, sums, -jnp.inf), counts


def rank(
    sums: np.ndarray, counts: np.ndarray, normalisation: str = "mean", prior: np.ndarray | None = None
) -> np.ndarray:
    """Index of the best option per row [b].

    Args:
      normalisation: "sum" log p(option); "mean" per token (long options are not punished); "prior" is
        log p(option | image) − log p(option | blank image), with ``prior`` the latter's sums.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation '{normalisation}' is unknown; there are {', '.join(NORMALISATIONS)}")
    scores = np.where(counts > 0, sums, -np.inf)
    if normalisation == "mean":
        scores = scores / np.maximum(counts, 1)
    if normalisation == "prior":
        if prior is None:
            raise ValueError("normalisation 'prior' needs the sums without the image (prior=)")
        scores = np.where(counts > 0, scores - np.where(counts > 0, prior, 0.0), -np.inf)
    return scores.argmax(axis=1)
