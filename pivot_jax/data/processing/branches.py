"""A prompt and n responses to it as one row: preference pairs, the options of a question, groups of online RL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.patches import positions_after


def group_row(
    prompt: EncodedRow, responses: Sequence[Sequence[int]], numbers: Sequence[int] | None = None
) -> EncodedRow:
    """The prompt followed by the tokens of every response: response i is branch i + 1, or ``numbers[i]``.

    Its positions continue from the prompt's. Image and prompt are computed once for all responses. Every response token
    is a target, after the prompt's own targets; the first one is predicted from the prompt's last token.

    Args:
      prompt: a row of one branch, as from ``Processor.encode(example, "prompt")``.
      responses: token ids of each, the end of the turn included.

    Raises:
      ValueError: no responses, or one without tokens (its log-probability would be 0 and always win).
    """
    if not responses or any(len(response) == 0 for response in responses):
        raise ValueError(f"row '{prompt.id}': every response needs at least one token (got {list(responses)})")
    n, sizes = len(prompt.tokens), [len(response) for response in responses]
    added = np.concatenate([np.asarray(response, np.int32) for response in responses])
    own = np.arange(1, len(sizes) + 1, dtype=np.int32) if numbers is None else np.asarray(numbers, np.int32)
    branches = np.repeat(own, sizes)
    sources = n - 1 + np.arange(len(added), dtype=np.int32)
    sources[np.cumsum([0, *sizes[:-1]])] = n - 1
    return EncodedRow(
        id=prompt.id,
        tokens=np.concatenate([prompt.tokens, added]),
        image_slots=np.pad(prompt.image_slots, (0, len(added)), constant_values=-1),
        positions=np.concatenate([prompt.positions, *(positions_after(prompt.positions, size) for size in sizes)]),
        branches=np.concatenate([prompt.branches, branches]),
        sources=np.concatenate([prompt.sources, sources]),
        targets=np.concatenate([prompt.targets, added]),
        target_branches=np.concatenate([prompt.target_branches, branches]),
        images=prompt.images,
        **_taps(prompt, len(added)),
        truncated=prompt.truncated,
    )


def side_by_side(rows: Sequence[EncodedRow], features: int) -> EncodedRow:
    """Whole rows of one branch each as branches 1, 2, ... of one row: a visual pair, whose prompts differ in the image.

    No token is shared, so none is in branch 0. Images follow each other; ``features`` are those of one image.
    """
    starts = np.cumsum([0, *(len(row.tokens) for row in rows[:-1])])
    images = np.cumsum([0, *(len(row.images) for row in rows[:-1])])

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(row, name) for row in rows])

    def numbered(name: str) -> np.ndarray:
        return np.concatenate([np.full(len(getattr(row, name)), i, np.int32) for i, row in enumerate(rows, 1)])

    slots = [
        np.where(row.image_slots < 0, -1, row.image_slots + n * features) for row, n in zip(rows, images, strict=True)
    ]
    return EncodedRow(
        id=rows[0].id,
        tokens=joined("tokens"),
        image_slots=np.concatenate(slots).astype(np.int32),
        positions=joined("positions"),
        branches=numbered("tokens"),
        sources=np.concatenate([row.sources + n for row, n in zip(rows, starts, strict=True)]).astype(np.int32),
        targets=joined("targets"),
        target_branches=numbered("targets"),
        images=tuple(image for row in rows for image in row.images),
        truncated=any(row.truncated for row in rows),
    )


def as_text(row: EncodedRow) -> EncodedRow:
    """The row with the positions that its tokens would have as text: counted one by one, on all axes of M-RoPE.

    MAYE trains with these although its sampler has M-RoPE's, so its ratios compare two models.
    """
    start = int(np.sum(row.branches == 0))
    order = np.concatenate([np.arange(start), *(start + np.arange(n) for n in np.bincount(row.branches)[1:])])
    positions = order.astype(np.int32).reshape(-1, *[1] * (row.positions.ndim - 1))
    return replace(row, positions=np.broadcast_to(positions, row.positions.shape).copy())


def _taps(prompt: EncodedRow, added: int) -> dict[str, Any]:
    """The prompt's tile fields, if it has any, and none for the ``added`` tokens after it."""
    if prompt.tile_taps is None or prompt.tile_weights is None:
        return {}
    return {
        "tile_taps": np.pad(prompt.tile_taps, ((0, added), (0, 0)), constant_values=-1),
        "tile_weights": np.pad(prompt.tile_weights, ((0, added), (0, 0))),
    }
