"""Rows of different lengths to arrays of one static shape. Pure NumPy; a row of None is masked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pivot_jax.data.batch import ContrastiveBatch, EncodedRow, PromptBatch, VLMBatch


class _Padding:
    """Right padding of b rows to ``size``: which places are filled is worked out once for all fields of that length."""

    def __init__(self, rows: Sequence[EncodedRow | None], field: str, size: int):
        self.rows = [row for row in rows if row is not None]
        lengths = [0 if row is None else len(getattr(row, field)) for row in rows]
        self.filled = np.arange(size) < np.asarray(lengths)[:, None]  # bool [b, size]

    def pad(self, field: str, fill: int) -> np.ndarray:
        """One field of all rows, int32 [b, size]."""
        out = np.full(self.filled.shape, fill, np.int32)
        if self.rows:
            out[self.filled] = np.concatenate([getattr(row, field) for row in self.rows])
        return out


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
    tokens, targets = _Padding(rows, "tokens", bucket[0]), _Padding(rows, "targets", bucket[1])
    return VLMBatch(
        images=images,
        tokens=tokens.pad("tokens", pad_id),
        image_slots=tokens.pad("image_slots", -1),
        positions=tokens.pad("positions", 0),
        segments=tokens.filled.astype(np.int32),
        branches=tokens.pad("branches", 0),
        sources=targets.pad("sources", 0),
        targets=targets.pad("targets", 0),
        weights=targets.filled.astype(np.float32),
        target_branches=targets.pad("target_branches", 0),
        row_index=row_index.astype(np.int32),
        ref_logps=ref_logps,
    )


def prompt_batch(
    rows: Sequence[EncodedRow | None], images: np.ndarray, row_index: np.ndarray, length: int, pad_id: int
) -> PromptBatch:
    """Prompts to answer, right padded to ``length`` tokens; arguments as for :func:`vlm_batch`."""
    padding = _Padding(rows, "tokens", length)
    return PromptBatch(
        images=images,
        tokens=padding.pad("tokens", pad_id),
        image_slots=padding.pad("image_slots", -1),
        positions=padding.pad("positions", 0),
        segments=padding.filled.astype(np.int32),
        row_index=row_index.astype(np.int32),
    )


def contrastive_batch(
    rows: Sequence[EncodedRow | None], images: np.ndarray, row_index: np.ndarray, length: int, pad_id: int
) -> ContrastiveBatch:
    """Image-caption pairs; ``images`` uint8 [b, 1, height, width, 3]."""
    return ContrastiveBatch(
        images=images[:, 0],
        tokens=_Padding(rows, "tokens", length).pad("tokens", pad_id),
        weights=np.asarray([row is not None for row in rows], np.float32),
        row_index=row_index.astype(np.int32),
    )
