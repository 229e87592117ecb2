"""Rows of different lengths to arrays of one static shape. Pure NumPy; a row of None is masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pivot_jax.data.processing.batch import ContrastiveBatch, EncodedRow, PromptBatch, VLMBatch
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.data.processing.tiles import TAPS

Rows = Sequence[EncodedRow | None]
TargetValues = Mapping[str, Sequence[np.ndarray | None]]


class Collation(NamedTuple):
    """Constants of a model's batches.

    Attributes:
      pad_id: token at padding.
      image_features: features of one image array; with packed rows, where the features of each row begin.
      mrope: positions have three axes.
      tiled: rows have ``tile_taps``, and so do batches of masked rows alone, which a process may have.
    """

    pad_id: int
    image_features: int
    mrope: bool = False
    tiled: bool = False


class _Padding:
    """``packing`` rows after each other, right padded to ``size``: computed once for all fields of that length."""

    def __init__(self, rows: Rows, field: str, size: int, packing: int = 1):
        self.rows = [row for row in rows if row is not None]
        self.lengths = np.asarray([0 if row is None else len(getattr(row, field)) for row in rows])
        sequences = self.lengths.reshape(-1, packing)
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

    def tile_fields(self, offsets: np.ndarray, tiled: bool) -> dict[str, np.ndarray]:
        """Taps and weights of rows with tiled images; ``offsets``: where each row's features begin, [b*k]."""
        if not (self.rows[0].tile_taps is not None if self.rows else tiled):
            return {}
        taps = self.pad("tile_taps", -1, (TAPS,))
        weights = np.zeros(taps.shape, np.float32)
        if self.rows:
            own = [row.tile_weights for row in self.rows if row.tile_weights is not None]
            weights[self.filled] = np.concatenate(own)
        return {"tile_taps": np.where(taps < 0, -1, taps + self.spread(offsets)[..., None]), "tile_weights": weights}

    def spread(self, values: np.ndarray) -> np.ndarray:
        """One value per row, [b*k], at each of the row's positions and 0 at padding: int32 [b, size]."""
        out = np.zeros(self.filled.shape, np.int32)
        out[self.filled] = np.repeat(values, self.lengths)
        return out


def vlm_batch(
    rows: Rows,
    images: ImageArrays,
    row_index: np.ndarray,
    bucket: tuple[int, int],
    constants: Collation,
    *,
    packing: int = 1,
    target_values: TargetValues | None = None,
) -> VLMBatch:
    """Training batch of b sequences of k = ``packing`` rows.

    Args:
      rows: b*k rows, or None for a masked row; each k consecutive ones share a sequence and fit the bucket.
      images: arrays of the rows, with leading axes [b*k, m].
      row_index: [b*k], -1 for a masked row.
      bucket: (n tokens, t targets) of a sequence.
      target_values: fields ``ref_logps``, ``old_logps``, ``advantages``, ``sampling_logps``, ``masked_logps``,
        ``importance``, ``old_values``, ``returns``: of each row a float32 array with one value per scored target, None
        of a masked row.

    Raises:
      ValueError: rows that ``packing`` does not divide, that do not fit the bucket, or another number of target values.
    """
    tokens, targets = (_Padding(rows, name, bucket[i], packing) for i, name in enumerate(("tokens", "targets")))
    member = np.arange(len(rows)) % packing
    slots = tokens.pad("image_slots", -1)
    m = images.pixels.shape[1]
    b = len(rows) // packing  # not -1, which an array without images does not determine
    pixels, positions = (None if x is None else x.reshape(b, packing * m, *x.shape[2:]) for x in images)
    begin = member * m * constants.image_features
    return VLMBatch(
        images=pixels,
        tokens=tokens.pad("tokens", constants.pad_id),
        image_slots=np.where(slots < 0, -1, slots + tokens.spread(begin)),
        **tokens.tile_fields(begin, constants.tiled),
        positions=tokens.pad("positions", 0, (3,) if constants.mrope else ()),
        segments=tokens.spread(member + 1),
        branches=tokens.pad("branches", 0),
        sources=targets.pad("sources", 0) + targets.spread(tokens.starts),
        targets=targets.pad("targets", 0),
        weights=targets.filled.astype(np.float32),
        target_branches=targets.pad("target_branches", 0),
        target_rows=targets.spread(member),
        row_index=row_index.astype(np.int32).reshape(-1, packing),
        **{name: targets.values(name, per_row) for name, per_row in (target_values or {}).items()},
        patch_positions=positions,
    )


def prompt_batch(
    rows: Rows, images: ImageArrays, row_index: np.ndarray, length: int, constants: Collation
) -> PromptBatch:
    """Prompts to answer, right padded to ``length`` tokens; arguments as for :func:`vlm_batch`."""
    padding = _Padding(rows, "tokens", length)
    return PromptBatch(
        images=images.pixels,
        tokens=padding.pad("tokens", constants.pad_id),
        image_slots=padding.pad("image_slots", -1),
        **padding.tile_fields(np.zeros(len(rows), int), constants.tiled),
        positions=padding.pad("positions", 0, (3,) if constants.mrope else ()),
        segments=padding.filled.astype(np.int32),
        row_index=row_index.astype(np.int32),
        patch_positions=images.positions,
    )


def contrastive_batch(
    rows: Rows, images: ImageArrays, row_index: np.ndarray, length: int, constants: Collation
) -> ContrastiveBatch:
    """Image-caption pairs; one square image per row."""
    return ContrastiveBatch(
        images=images.pixels[:, 0],
        tokens=_Padding(rows, "tokens", length).pad("tokens", constants.pad_id),
        weights=np.asarray([row is not None for row in rows], np.float32),
        row_index=row_index.astype(np.int32),
    )
