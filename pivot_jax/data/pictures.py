"""The pictures of a batch: read, preprocessed, and kept when the whole data set is small enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pivot_jax.data import patches
from pivot_jax.data.anyres import Tiler, tiler_of
from pivot_jax.data.images import load, pad_to_square, preprocess, preset_of
from pivot_jax.data.patches import Cutter
from pivot_jax.errors import RowError, UserError

MIB = 1 << 20
Arrays = tuple[Any, Any]  # pictures, and the places of their patches or None
References = Callable[[int], tuple[str, tuple[Any, ...]]]  # row → its id and image references


def cutter_of(section: Mapping[str, Any], patch: int) -> Cutter | Tiler | None:
    """What cuts pictures as ``config.data.image`` says; None where each is one square. Raises UserError."""
    return patches.cutter_of(section, patch) or tiler_of(section, patch)


class Pictures:
    """Preprocessed pictures by row number.

    Args:
      rows: rows of the data set.
      per_row: image slots m.
      preset, size: of :func:`images.preprocess`.
      cutter: makes lists of patches, or several tiles, in place of one square; None where the config wants squares.
      workers: threads that read and decode (Pillow releases the interpreter lock while it does).
      cache_mib: if all rows' pictures fit, they are read once and kept; otherwise nothing is kept.
    """

    def __init__(
        self,
        rows: int,
        per_row: int,
        preset: str,
        size: int,
        workers: int,
        cache_mib: int,
        cutter: Cutter | Tiler | None = None,
    ):
        preset_of(preset)
        self.preset, self.size, self.cutter = preset, size, cutter
        if isinstance(cutter, Cutter):
            self.shape: tuple[int, ...] = (per_row, cutter.most, cutter.patch**2 * 3)
        else:
            self.shape = (per_row * (cutter.most if cutter else 1), size, size, 3)
        self._pool = ThreadPoolExecutor(workers, "pictures") if workers > 1 else None
        fits = rows * int(np.prod(self.shape)) <= cache_mib * MIB
        self._kept = self._empty(rows) if fits else None  # pages are taken when written
        self._there = np.zeros(rows, bool)

    def _empty(self, rows: int) -> Arrays:
        """No pictures: zeros, and with a cutter the places of no patch."""
        images = np.zeros((rows, *self.shape), np.uint8)
        if not isinstance(self.cutter, Cutter):
            return images, None
        return images, np.full((rows, *self.shape[:-1], 2), -1, np.int32)

    def batch(self, rows: np.ndarray, references: References) -> tuple[Arrays, list[RowError | None]]:
        """Pictures of the rows, and for each row what was wrong with it.

        uint8 [b, m, size, size, 3] and None; with a cutter patches, uint8 [b, m, p, i], and places, int32 [b, m, p, 2].

        ``references(row)`` gives the row's id and image references; it is asked only for what is not kept. -1 is a
        masked row: zeros, nothing wrong.
        """
        if self._kept is None:
            out = self._empty(len(rows))
            return out, self._fill(out, np.flatnonzero(rows >= 0), rows, references)
        new = np.flatnonzero((rows >= 0) & ~self._there[np.maximum(rows, 0)])
        fresh = self._empty(len(new))
        found = self._fill(fresh, np.arange(len(new)), rows[new], references)
        errors: list[RowError | None] = [None] * len(rows)
        for i, place in enumerate(new):
            errors[place] = found[i]
            if found[i] is None:
                for kept, new_ in _both(self._kept, fresh):
                    kept[rows[place]] = new_[i]
                self._there[rows[place]] = True
        images, places = (None if kept is None else kept[np.maximum(rows, 0)] for kept in self._kept)
        for out, empty in _both((images, places), (0, -1)):
            out[rows < 0] = empty
        return (images, places), errors

    def _fill(self, out: Arrays, places: np.ndarray, rows: np.ndarray, references: References) -> list[RowError | None]:
        """Reads the pictures of ``rows[places]`` into ``out[places]``; zeros and an error where one is bad."""
        errors: list[RowError | None] = [None] * len(rows)

        def read(place: int) -> None:
            row_id, images = references(int(rows[place]))
            try:
                for whole, own in _both(out, self._read(images)):
                    whole[place] = own
            except UserError as error:
                errors[place] = RowError(row_id, str(error))

        if self._pool is None or len(places) < 2:
            for place in places:
                read(place)
        else:
            list(self._pool.map(read, places))
        return errors

    def _read(self, images: tuple[Any, ...]) -> Arrays:
        """One row's pictures; several pictures in a row are padded to squares, as LLaVA does, unless they are cut."""
        empty = self._empty(1)
        out, places = empty[0][0], None if empty[1] is None else empty[1][0]
        for slot, reference in enumerate(images):
            try:
                image = load(reference)
            except UserError as error:
                raise (
                    UserError(f"picture {slot + 1} of {len(images)}: {error}") if len(images) > 1 else error
                ) from None
            if isinstance(self.cutter, Cutter) and places is not None:
                out[slot], places[slot] = self.cutter.cut(image)
                continue
            if isinstance(self.cutter, Tiler):
                most = self.cutter.most
                out[slot * most : (slot + 1) * most] = self.cutter.cut(image)
                continue
            if len(images) > 1:
                image = pad_to_square(image, self.preset)
            out[slot] = preprocess(image, self.preset, self.size)
        return out, places


def _both(first: Any, second: Any) -> list[tuple[Any, Any]]:
    """Pairs of the arrays of two pictures, of those that are there."""
    return [(a, b) for a, b in zip(first, second, strict=True) if a is not None]
