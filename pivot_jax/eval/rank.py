"""Format-robust multiple choice: which option does the model find most likely, whatever it would have written.

All options of a question stand in one row behind the shared prompt, each in its own branch, so that image and prompt
are computed once. A row is an :class:`~pivot_jax.data.batch.EncodedRow`, collated like any training row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.data.batch import EncodedRow
from pivot_jax.data.patches import text_behind
from pivot_jax.kernels.token_logprobs import token_logprobs
from pivot_jax.models.mllm import MLLM, head_matrix

Array = jax.Array
NORMALISATIONS = ("sum", "mean", "prior")


def option_row(prompt: EncodedRow, options: Sequence[Sequence[int]]) -> EncodedRow:
    """The prompt with every option's tokens behind it: option k is branch k + 1, positions restart behind the prompt.

    Raises:
      ValueError: no options, or one of them has no tokens (its log-probability would be 0 and always win).
    """
    if not options or any(len(option) == 0 for option in options):
        raise ValueError(f"row '{prompt.id}': every option to rank needs at least one token (got {list(options)})")
    n = len(prompt.tokens)
    tokens, positions, branches = [prompt.tokens], [prompt.positions], [np.zeros(n, np.int32)]
    sources, start = [], n
    for index, option in enumerate(options):
        places = np.arange(start, start + len(option))
        tokens.append(np.asarray(option, np.int32))
        positions.append(text_behind(prompt.positions, len(option)))
        branches.append(np.full(len(option), index + 1))
        # The first token of every option is predicted from the prompt's last token.
        sources.append(np.concatenate([[n - 1], places[:-1]]))
        start += len(option)
    added = start - n
    return EncodedRow(
        id=prompt.id,
        tokens=np.concatenate(tokens).astype(np.int32),
        image_slots=np.concatenate([prompt.image_slots, np.full(added, -1)]).astype(np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        branches=np.concatenate(branches).astype(np.int32),
        sources=np.concatenate(sources).astype(np.int32),
        targets=np.concatenate([np.asarray(option) for option in options]).astype(np.int32),
        target_branches=np.concatenate(branches[1:]).astype(np.int32),
        images=prompt.images,
        **_no_pictures_behind(prompt, added),
    )


def _no_pictures_behind(prompt: EncodedRow, added: int) -> dict[str, Any]:
    """The prompt's taps of tiles, if it has any, and none for ``added`` tokens behind it."""
    if prompt.tile_taps is None or prompt.tile_weights is None:
        return {}
    return {
        "tile_taps": np.pad(prompt.tile_taps, ((0, added), (0, 0)), constant_values=-1),
        "tile_weights": np.pad(prompt.tile_weights, ((0, added), (0, 0))),
    }


def option_logps(mllm: MLLM, params: Any, batch: Any, max_options: int) -> tuple[np.ndarray, np.ndarray]:
    """Summed log-probability and token count of each option of each row.

    Args:
      batch: ``VLMBatch`` collated from :func:`option_row` rows.

    Returns:
      float32 [b, max_options] sums (-inf where a row has fewer options) and int32 [b, max_options] counts.
    """
    sums, counts = _option_logps(mllm, max_options, params, batch)
    return np.asarray(sums), np.asarray(counts)


@partial(jax.jit, static_argnums=(0, 1))
def _option_logps(mllm: MLLM, max_options: int, params: Any, batch: Any) -> tuple[Array, Array]:
    hidden: Any = mllm.apply({"params": params}, batch, method="hidden")
    picked = jnp.take_along_axis(hidden, batch.sources[:, :, None], axis=1)
    b, t, d = picked.shape
    stats = token_logprobs(picked.reshape(b * t, d), head_matrix(params), batch.targets.reshape(-1))
    logps = stats.logps.reshape(b, t) * batch.weights
    member = (batch.target_branches[:, :, None] == jnp.arange(1, max_options + 1)) & (batch.weights[:, :, None] > 0)
    counts = member.sum(1)
    sums = jnp.einsum("bt,bto->bo", logps, member.astype(logps.dtype))
    return jnp.where(counts > 0, sums, -jnp.inf), counts.astype(jnp.int32)


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
