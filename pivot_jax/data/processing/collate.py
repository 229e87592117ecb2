"""Rows of different lengths to arrays of one static shape. Pure NumPy; a row of None is masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pivot_jax.data.processing.batch import ContrastiveBatch, EncodedRow, PromptBatch, VLMBatch
from pivot_jax.data.processing.tiles import TAPS


class _Padding:
    """``pack`` rows behind each other and right padding to ``size``, worked out once for all fields of that length."""

    def __init__(self, rows: Sequence[EncodedRow | None], field: str, size: int, pack: int = 1):
        self.rows = [row for row in rows if row is not None]
        self.lengths = np.asarray([0 if row is None else len(getattr(row, field)) for row in rows])
        sequences = self.lengths.reshape(-1, pack)
        self.starts = (np.cumsum(sequences, 1) - sequences).ravel()  # [b*k]; of each row in its sequence
        self.filled = np.arange(size) < sequences.sum(1)[:, None]  # bool [b, size]

    def pad(self, field: str, fill: int, axes: tuple[int, ...] = ()) -> np.ndarray:
        """One field of all rows, int32 [b, size, *axes]."""
        out = np.full((*self.filled.shape, *axes), fill, np.int32)
        if self.rows:
            out[self.filled] = np.concatenate([getattr(row, field) for row in self.rows])
        return out

    def values(self, name: str, per_row: Sequence[np.ndarray | None]) -> np.ndarray:
        """An array per row (None for a masked one), laid out like the rows' fields; 0 at padding: float32 [b, size]."""
        lengths = [0 if values is None else len(values) for values in per_row]
        if lengths != self.lengths.tolist():
            raise ValueError(f"{name}: rows of {lengths} values, but of {self.lengths.tolist()} scored targets")
        out = np.zeros(self.filled.shape, np.float32)
        if self.rows:
            out[self.filled] = np.concatenate([values for values in per_row if values is not None])
        return out

    def taps(self, offsets: np.ndarray) -> dict[str, np.ndarray]:
        """Taps and weights of rows whose pictures are cut into tiles; ``offsets``: of each row's features, [b*k]."""
        if not self.rows or self.rows[0].tile_taps is None:
            return {}
        taps = self.pad("tile_taps", -1, (TAPS,))
        weights = np.zeros(taps.shape, np.float32)
        weights[self.filled] = np.concatenate([row.tile_weights for row in self.rows if row.tile_weights is not None])
        return {"tile_taps": np.where(taps < 0, -1, taps + self.spread(offsets)[..., None]), "tile_weights": weights}

    def spread(self, values: np.ndarray) -> np.ndarray:
        """One value per row, [b*k], at each of the row's places and 0 at padding: int32 [b, size]."""
        out = np.zeros(self.filled.shape, np.int32)
        out[self.filled] = np.repeat(values, self.lengths)
        return out


def vlm_batch(
    rows: Sequence[EncodedRow | None],
    images: np.ndarray,
    row_index: np.ndarray,
    bucket: tuple[int, int],
    pad_id: int,
    target_values: Mapping[str, Sequence[np.ndarray | None]] | None = None,
    *,
    pack: int = 1,
    image_tokens: int = 0,
    patch_places: np.ndarray | None = None,
    mrope: bool = False,
) -> VLMBatch:
    """Training batch of b sequences of k = ``pack`` rows.

    Args:
      rows: b*k rows, or None for a masked row; each k that follow each other share a sequence and fit the bucket.
      images: uint8 [b*k, m, height, width, 3], or patches [b*k, m, p, i] with ``patch_places`` [b*k, m, p, 2].
      row_index: [b*k], -1 for a masked row.
      bucket: (n tokens, t targets) of a sequence.
      target_values: ``ref_logps``, ``old_logps``, ``advantages`` → per row, float32 [its targets], one value per scored
        target; None for a masked row.
      image_tokens: features per image; where rows are packed it says where a row's images begin.
      mrope: the rows' positions have three axes.

    Raises:
      ValueError: rows that ``pack`` does not divide, that do not fit the bucket, packed without ``image_tokens``, or
        more or fewer ``target_values`` than a row has targets.
    """
    if pack > 1 and not image_tokens:
        raise ValueError("packed rows need image_tokens, the number of features per image")
    tokens, targets = (_Padding(rows, name, bucket[i], pack) for i, name in enumerate(("tokens", "targets")))
    member = np.arange(len(rows)) % pack
    slots = tokens.pad("image_slots", -1)
    m = images.shape[1]
    pictures, places = (None if x is None else x.reshape(-1, pack * m, *x.shape[2:]) for x in (images, patch_places))
    return VLMBatch(
        images=pictures,
        tokens=tokens.pad("tokens", pad_id),
        image_slots=np.where(slots < 0, -1, slots + tokens.spread(member * m * image_tokens)),
        **tokens.taps(member * m * image_tokens),
        positions=tokens.pad("positions", 0, (3,) if mrope else ()),
        segments=tokens.spread(member + 1),
        branches=tokens.pad("branches", 0),
        sources=targets.pad("sources", 0) + targets.spread(tokens.starts),
        targets=targets.pad("targets", 0),
        weights=targets.filled.astype(np.float32),
        target_branches=targets.pad("target_branches", 0),
        target_rows=targets.spread(member),
        row_index=row_index.astype(np.int32).reshape(-1, pack),
        **{name: targets.values(name, per_row) for name, per_row in (target_values or {}).items()},
        patch_places=places,
    )


def prompt_batch(
    rows: Sequence[EncodedRow | None],
    images: np.ndarray,
    row_index: np.ndarray,
    length: int,
    pad_id: int,
    *,
    patch_places: np.ndarray | None = None,
    mrope: bool = False,
) -> PromptBatch:
    """Prompts to answer, right padded to ``length`` tokens; arguments as for :func:`vlm_batch`."""
    padding = _Padding(rows, "tokens", length)
    return PromptBatch(
        images=images,
        tokens=padding.pad("tokens", pad_id),
        image_slots=padding.pad("image_slots", -1),
        **padding.taps(np.zeros(len(rows), int)),
        positions=padding.pad("positions", 0, (3,) if mrope else ()),
        segments=padding.filled.astype(np.int32),
        row_index=row_index.astype(np.int32),
        patch_places=patch_places,
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
