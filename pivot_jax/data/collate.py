"""Rows of different lengths to arrays of one static shape. Pure NumPy; a row of None is masked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pivot_jax.data.batch import ContrastiveBatch, EncodedRow, PromptBatch, VLMBatch


def _stack(rows: Sequence[EncodedRow | None], field: str, size: int, fill: int) -> np.ndarray:
    """One field of all rows, right padded: int32 [b, size]."""
    out = np.full((len(rows), size), fill, np.int32)
    for index, row in enumerate(rows):
        if row is not None:
            values = getattr(row, field)
            out[index, : len(values)] = values
    return out


def _valid(rows: Sequence[EncodedRow | None], field: str, size: int) -> np.ndarray:
    """Which places hold something: bool [b, size]."""
    lengths = np.asarray([0 if row is None else len(getattr(row, field)) for row in rows])
    return np.arange(size) < lengths[:, None]


def vlm_batch(
    rows: Sequence[EncodedRow | None],
    images: np.ndarray,
    row_index: np.ndarray,
    bucket: tuple[int, int],
    pad_id: int,
    ref_logps: np.ndarray | None = None,
) -> VLMBatch:
    """Training batch.

    Args:
      rows: b rows that fit the bucket, or None for a masked row.
      images: uint8 [b, m, height, width, 3].
      row_index: [b], -1 for a masked row.
      bucket: (n tokens, t targets).
      ref_logps: float32 [b, 2] or None.
    """
    n, t = bucket
    return VLMBatch(
        images=images,
        tokens=_stack(rows, "tokens", n, pad_id),
        image_slots=_stack(rows, "image_slots", n, -1),
        positions=_stack(rows, "positions", n, 0),
        segments=_valid(rows, "tokens", n).astype(np.int32),
        branches=_stack(rows, "branches", n, 0),
        sources=_stack(rows, "sources", t, 0),
        targets=_stack(rows, "targets", t, 0),
        weights=_valid(rows, "targets", t).astype(np.float32),
        target_branches=_stack(rows, "target_branches", t, 0),
        row_index=row_index.astype(np.int32),
        ref_logps=ref_logps,
    )


def prompt_batch(
    rows: Sequence[EncodedRow | None], images: np.ndarray, row_index: np.ndarray, length: int, pad_id: int
) -> PromptBatch:
    """Prompts to answer, right padded to ``length`` tokens; arguments as for :func:`vlm_batch`."""
    return PromptBatch(
        images=images,
        tokens=_stack(rows, "tokens", length, pad_id),
        image_slots=_stack(rows, "image_slots", length, -1),
        positions=_stack(rows, "positions", length, 0),
        segments=_valid(rows, "tokens", length).astype(np.int32),
        row_index=row_index.astype(np.int32),
    )


def contrastive_batch(
    rows: Sequence[EncodedRow | None], images: np.ndarray, row_index: np.ndarray, length: int, pad_id: int
) -> ContrastiveBatch:
    """Image-caption pairs; ``images`` uint8 [b, 1, height, width, 3]."""
    return ContrastiveBatch(
        images=images[:, 0],
        tokens=_stack(rows, "tokens", length, pad_id),
        weights=np.asarray([row is not None for row in rows], np.float32),
        row_index=row_index.astype(np.int32),
    )
