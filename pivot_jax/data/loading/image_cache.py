"""The pictures of a batch: read, preprocessed, and kept when the whole data set is small enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pivot_jax.data.processing import patches
from pivot_jax.data.processing.images import load, pad_to_square, preprocess, preset_of
from pivot_jax.data.processing.patches import Cutter
from pivot_jax.data.processing.tiles import Tiler, tiler_of
from pivot_jax.errors import RowError, UserError

MIB = 1 << 20
Arrays = tuple[Any, Any]  # pictures, and the places of their patches or None
Read = Callable[[list[int]], Iterable["Arrays | RowError"]]  # rows → their pictures, in order


def cutter_of(section: Mapping[str, Any], patch: int) -> Cutter | Tiler | None:
    """What cuts pictures as ``config.data.image`` says; None where each is one square. Raises UserError."""
    return patches.cutter_of(section, patch) or tiler_of(section, patch)


@dataclass(frozen=True)
class PictureReader:
    """Makes the pictures of a row what the encoder takes.

    Attributes:
      per_row: image slots m.
      preset, size: of :func:`images.preprocess`.
      cutter: makes lists of patches, or several tiles, in place of one square; None where the config wants squares.

    Raises:
      UserError: an unknown preset.
    """

    per_row: int
    preset: str
    size: int
    cutter: Cutter | Tiler | None = None

    def __post_init__(self) -> None:
        preset_of(self.preset)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row's pictures: [m, size, size, 3], or [m, p, i] patches."""
        if isinstance(self.cutter, Cutter):
            return (self.per_row, self.cutter.most, self.cutter.patch**2 * 3)
        return (self.per_row * self._tiles, self.size, self.size, 3)

    @property
    def _tiles(self) -> int:
        return self.cutter.most if isinstance(self.cutter, Tiler) else 1

    def empty(self, *rows: int, slots: int | None = None) -> Arrays:
        """No pictures: zeros, and with a cutter the places of no patch. ``slots``: fewer than a row has."""
        own = self.shape if slots is None else (slots, *self.shape[1:])
        images = np.zeros((*rows, *own), np.uint8)
        if not isinstance(self.cutter, Cutter):
            return images, None
        return images, np.full((*rows, *own[:-1], 2), -1, np.int32)

    def read(self, images: tuple[Any, ...]) -> Arrays:
        """One row's pictures, in as many slots as it needs.

        Several pictures in a row are padded to squares, as LLaVA does, unless they are cut.

        Raises:
          UserError: a picture that cannot be read.
        """
        out, places = self.empty(slots=len(images) * self._tiles)
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
                out[slot * self._tiles : (slot + 1) * self._tiles] = self.cutter.cut(image)
                continue
            if len(images) > 1:
                image = pad_to_square(image, self.preset)
            out[slot] = preprocess(image, self.preset, self.size)
        return out, places


class Pictures:
    """Preprocessed pictures by row number.

    Args:
      reader: says how large a row's pictures are.
      rows: rows of the data set.
      cache_mib: if all rows' pictures fit, they are read once and kept; otherwise nothing is kept.
    """

    def __init__(self, reader: PictureReader, rows: int, cache_mib: int):
        self.reader = reader
        fits = rows * int(np.prod(reader.shape)) <= cache_mib * MIB
        self._kept = reader.empty(rows) if fits else None  # pages are taken when written
        self._there = np.zeros(rows, bool)

    def batch(self, rows: np.ndarray, read: Read) -> tuple[Arrays, list[RowError | None]]:
        """Pictures of the rows, and for each row what was wrong with it.

        uint8 [b, m, size, size, 3] and None; with a cutter patches, uint8 [b, m, p, i], and places, int32 [b, m, p, 2].

        ``read(rows)`` gives the pictures of each (``PictureReader.read``) or its error; it is asked only for what is
        not kept. -1 is a masked row: zeros, nothing wrong.
        """
        if self._kept is None:
            out = self.reader.empty(len(rows))
            return out, self._fill(out, np.flatnonzero(rows >= 0), rows, read)
        new = np.flatnonzero((rows >= 0) & ~self._there[np.maximum(rows, 0)])
        fresh = self.reader.empty(len(new))
        found = self._fill(fresh, np.arange(len(new)), rows[new], read)
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

    def _fill(self, out: Arrays, places: np.ndarray, rows: np.ndarray, read: Read) -> list[RowError | None]:
        """Reads the pictures of ``rows[places]`` into ``out[places]``; an error where one is bad."""
        errors: list[RowError | None] = [None] * len(rows)
        for place, found in zip(places, read([int(row) for row in rows[places]]), strict=True):
            if isinstance(found, RowError):
                errors[place] = found
                continue
            for whole, own in _both(out, found):
                whole[place, : len(own)] = own
        return errors


def _both(first: Any, second: Any) -> list[tuple[Any, Any]]:
    """Pairs of the arrays of two pictures, of those that are there."""
    return [(a, b) for a, b in zip(first, second, strict=True) if a is not None]
