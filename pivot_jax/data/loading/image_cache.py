"""The images of a batch: read and preprocessed, and kept where the whole data set is small enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.data.processing.processor import Processor
from pivot_jax.errors import RowError

MIB = 1 << 20
Read = Callable[[list[int]], Iterable["ImageArrays | RowError"]]  # row numbers → their images, in order


class ImageCache:
    """Preprocessed images by row number.

    Args:
      processor: says how large a row's images are.
      rows: rows of the data set.
      cache_mib: if all rows' images fit, they are read once and kept; otherwise nothing is kept.
    """

    def __init__(self, processor: Processor, rows: int, cache_mib: int):
        self._processor = processor
        one = self._empty(1)
        fits = rows * one.pixels.nbytes <= cache_mib * MIB
        self._kept = self._empty(rows) if fits else None  # pages are allocated when written
        self._read = np.zeros(rows, bool)

    def _empty(self, rows: int) -> ImageArrays:
        return self._processor.geometry.empty(rows, self._processor.arrays_per_row)

    def batch(self, rows: np.ndarray, read: Read) -> tuple[ImageArrays, list[RowError | None]]:
        """Images of the rows with leading axes [b, m], and for each row the reason why it is bad, or None.

        ``read(rows)`` yields the images of each row (``Processor.read_images``) or its error; it is called only for
        rows that are not kept. -1 is a masked row: an empty image and no error.
        """
        if self._kept is None:
            out = self._empty(len(rows))
            return out, self._fill(out, np.flatnonzero(rows >= 0), rows, read)
        new = np.flatnonzero((rows >= 0) & ~self._read[np.maximum(rows, 0)])
        fresh = self._empty(len(new))
        found = self._fill(fresh, np.arange(len(new)), rows[new], read)
        errors: list[RowError | None] = [None] * len(rows)
        for i, index in enumerate(new):
            errors[index] = found[i]
            if found[i] is None:
                for kept, one in self._kept.pairs(fresh):
                    kept[rows[index]] = one[i]
                self._read[rows[index]] = True
        pixels, positions = self._kept
        index = np.maximum(rows, 0)
        out = ImageArrays(pixels[index], None if positions is None else positions[index])
        for whole, empty in out.pairs(self._empty(1)):
            whole[rows < 0] = empty[0]
        return out, errors

    def _fill(self, out: ImageArrays, indices: np.ndarray, rows: np.ndarray, read: Read) -> list[RowError | None]:
        """Reads the images of ``rows[indices]`` into ``out[indices]``; an error where one is bad."""
        errors: list[RowError | None] = [None] * len(rows)
        for index, found in zip(indices, read([int(row) for row in rows[indices]]), strict=True):
            if isinstance(found, RowError):
                errors[index] = found
                continue
            for whole, own in out.pairs(found):
                whole[index, : len(own)] = own
        return errors
