"""The pictures of a batch: read, preprocessed, and kept when the whole data set is small enough."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pivot_jax.data.images import load, pad_to_square, preprocess, preset_of
from pivot_jax.errors import RowError, UserError

MIB = 1 << 20
References = Callable[[int], tuple[str, tuple[Any, ...]]]  # row → its id and image references


class Pictures:
    """Preprocessed pictures by row number.

    Args:
      rows: rows of the data set.
      per_row: image slots m.
      preset, size: of :func:`images.preprocess`.
      workers: threads that read and decode (Pillow releases the interpreter lock while it does).
      cache_mib: if all rows' pictures fit, they are read once and kept; otherwise nothing is kept.
    """

    def __init__(self, rows: int, per_row: int, preset: str, size: int, workers: int, cache_mib: int):
        preset_of(preset)
        self.shape = (per_row, size, size, 3)
        self.preset, self.size = preset, size
        self._pool = ThreadPoolExecutor(workers, "pictures") if workers > 1 else None
        fits = rows * int(np.prod(self.shape)) <= cache_mib * MIB
        self._kept = np.zeros((rows, *self.shape), np.uint8) if fits else None  # pages are taken when written
        self._there = np.zeros(rows, bool)

    def batch(self, rows: np.ndarray, references: References) -> tuple[np.ndarray, list[RowError | None]]:
        """Pictures of the rows, uint8 [b, m, size, size, 3], and for each row what was wrong with it.

        ``references(row)`` gives the row's id and image references; it is asked only for what is not kept. -1 is a
        masked row: zeros, nothing wrong.
        """
        if self._kept is None:
            out = np.zeros((len(rows), *self.shape), np.uint8)
            return out, self._fill(out, np.flatnonzero(rows >= 0), rows, references)
        new = np.flatnonzero((rows >= 0) & ~self._there[np.maximum(rows, 0)])
        fresh = np.zeros((len(new), *self.shape), np.uint8)
        found = self._fill(fresh, np.arange(len(new)), rows[new], references)
        errors: list[RowError | None] = [None] * len(rows)
        for i, place in enumerate(new):
            errors[place] = found[i]
            if found[i] is None:
                self._kept[rows[place]] = fresh[i]
                self._there[rows[place]] = True
        out = self._kept[np.maximum(rows, 0)]
        out[rows < 0] = 0
        return out, errors

    def _fill(
        self, out: np.ndarray, places: np.ndarray, rows: np.ndarray, references: References
    ) -> list[RowError | None]:
        """Reads the pictures of ``rows[places]`` into ``out[places]``; zeros and an error where one is bad."""
        errors: list[RowError | None] = [None] * len(rows)

        def read(place: int) -> None:
            row_id, images = references(int(rows[place]))
            try:
                out[place] = self._read(images)
            except UserError as error:
                errors[place] = RowError(row_id, str(error))

        if self._pool is None or len(places) < 2:
            for place in places:
                read(place)
        else:
            list(self._pool.map(read, places))
        return errors

    def _read(self, images: tuple[Any, ...]) -> np.ndarray:
        """One row's pictures [m, size, size, 3]; several pictures in a row are padded to squares, as LLaVA does."""
        out = np.zeros(self.shape, np.uint8)
        for slot, reference in enumerate(images):
            try:
                image = load(reference)
            except UserError as error:
                raise (
                    UserError(f"picture {slot + 1} of {len(images)}: {error}") if len(images) > 1 else error
                ) from None
            if len(images) > 1:
                image = pad_to_square(image, self.preset)
            out[slot] = preprocess(image, self.preset, self.size)
        return out
