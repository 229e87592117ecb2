"""Pictures of any size as lists of patches: what size they get, how they are cut, and where their tokens stand.

Qwen2-VL and Qwen2.5-VL (``smart_size``) and SigLIP2 NaFlex (``naflex_size``) nearly keep a picture's shape. Every patch
has a place (row, column) in the picture's grid. An encoder that merges ``merge`` x ``merge`` patches to a token needs
these behind each other, and one with windows is faster when a window's patches are; so patches have an order of the
preset's, and ``slots`` says where the tokens, which the language model reads row by row, are among the merged ones.
Letters: p patches of the padded list, i numbers of a patch (rows, columns, colours), n tokens of a row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pivot_jax.data.processing.images import Preset, preset_of
from pivot_jax.errors import UserError

LARGEST_RATIO = 200  # of a picture's sides; Qwen's processor refuses more


@dataclass(frozen=True)
class Cutter:
    """One preset's way from a picture to patches. Build with :func:`cutter_of`.

    Attributes:
      patch: pixels of a patch's side.
      most: p, patches that a list has room for; a picture that would have more is made smaller.
      min_pixels, max_pixels: of a resized picture (Qwen).
      window: patches per side of the windows whose patches follow each other; 0: all are one. It changes speed only.
    """

    name: str
    patch: int
    most: int
    min_pixels: int
    max_pixels: int
    window: int = 0

    @property
    def preset(self) -> Preset:
        return preset_of(self.name)

    @property
    def tokens(self) -> int:
        """Merged tokens of the padded list."""
        return self.most // self.preset.merge**2

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture of this size in pixels."""
        if self.preset.cut == "naflex":
            size = naflex_size(height, width, self.patch, self.most)
        else:
            unit = self.patch * self.preset.merge
            limit = min(self.max_pixels, self.most * self.patch**2)
            size = smart_size(height, width, unit, min(self.min_pixels, limit), limit)
        rows, columns = (side // self.patch for side in size)
        return _shorten(rows, columns, self.most, self.preset.merge)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens."""
        rows, columns = self.grid(height, width)
        return rows // self.preset.merge, columns // self.preset.merge

    def order(self, rows: int, columns: int) -> np.ndarray:
        """Places of a grid's patches in the preset's order: int32 [rows * columns, 2]."""
        return _order(rows, columns, self.preset.merge, self.window)

    def slots(self, rows: int, columns: int) -> np.ndarray:
        """Where each token of a token grid, row by row, is among the merged ones: int32 [rows * columns]."""
        merge = self.preset.merge
        first = self.order(rows * merge, columns * merge)[:: merge**2] // merge
        slots = np.empty(rows * columns, np.int32)
        slots[first[:, 0] * columns + first[:, 1]] = np.arange(rows * columns)
        return slots

    def cut(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        """The picture's patches, uint8 [p, i], and their places, int32 [p, 2]; zeros and -1 behind its last one.

        Equal to ``Qwen2VLImageProcessorPil`` and ``Siglip2ImageProcessorPil`` before their normalisation.
        """
        rows, columns = self.grid(image.height, image.width)
        size = (columns * self.patch, rows * self.patch)
        if image.size != size:
            image = image.resize(size, self.preset.interpolation)
        pixels = np.asarray(image).reshape(rows, self.patch, columns, self.patch, 3)
        pixels = pixels.transpose(0, 2, 1, 3, 4).reshape(rows, columns, -1)
        patches, places = np.zeros((self.most, pixels.shape[-1]), np.uint8), np.full((self.most, 2), -1, np.int32)
        order = self.order(rows, columns)
        patches[: len(order)], places[: len(order)] = pixels[order[:, 0], order[:, 1]], order
        return patches, places


def cutter_of(section: Mapping[str, Any], patch: int) -> Cutter | None:
    """Of ``config.data.image``; None where the preset makes squares.

    Raises:
      UserError: an unknown preset, or a number of patches that it cannot work with.
    """
    name, most = section["preset"], section["max_patches"]
    preset = preset_of(name)
    if not preset.cut:
        return None
    if most < 1 or most % preset.merge**2:
        unit = f"a multiple of {preset.merge**2}" if preset.merge > 1 else "at least 1"
        raise UserError(
            f"data.image.max_patches: {most}, but preset '{name}' cuts pictures of any size into patches and needs "
            f"room for their number: {unit}, such as 1024"
        )
    return Cutter(name, patch, most, section["min_pixels"], section["max_pixels"], preset.window // patch)


def smart_size(height: int, width: int, unit: int, least: int, most: int) -> tuple[int, int]:
    """Height and width, multiples of ``unit`` pixels, with nearly the picture's shape and ``least`` to ``most`` pixels.

    Qwen2-VL's rule; halves are rounded to even. A side is at least one unit, so that a very long picture may keep more
    than ``most`` pixels.

    Raises:
      UserError: one side is more than 200 times the other.
    """
    if max(height, width) > LARGEST_RATIO * min(height, width):
        raise UserError(f"a picture of {width}x{height} pixels: one side is more than {LARGEST_RATIO} times the other")
    units = [round(side / unit) for side in (height, width)]
    if math.prod(units) * unit**2 > most:
        shrink = math.sqrt(height * width / most)
        units = [math.floor(side / shrink / unit) for side in (height, width)]
    elif math.prod(units) * unit**2 < least:
        grow = math.sqrt(least / (height * width))
        units = [math.ceil(side * grow / unit) for side in (height, width)]
    return max(1, units[0]) * unit, max(1, units[1]) * unit


def naflex_size(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """Height and width, multiples of ``patch`` pixels, of the largest scale that gives at most ``most`` patches.

    SigLIP2's binary search over the scale, to 1e-5; sides are rounded up.
    """

    def scaled(scale: float) -> tuple[int, int]:
        rows, columns = (max(1, math.ceil(side * scale / patch)) for side in (height, width))
        return rows * patch, columns * patch

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        if math.prod(scaled(middle)) <= most * patch**2:
            low = middle
        else:
            high = middle
    return scaled(low)


def _shorten(rows: int, columns: int, most: int, merge: int) -> tuple[int, int]:
    """The grid, its longer side cut back where a very long picture would still have more than ``most`` patches."""
    short = min(rows, columns)
    long = min(max(rows, columns), max(1, most // short // merge) * merge)
    return (short, long) if rows <= columns else (long, short)


@functools.lru_cache(maxsize=512)
def _order(rows: int, columns: int, merge: int, window: int) -> np.ndarray:
    """Windows row by row, in them merged tokens row by row, in these patches; ``window`` 0: one for all."""
    row, column = (x.ravel() for x in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    keys = [column, row, column // merge, row // merge]  # the last one counts most
    if window:
        keys += [column // window, row // window]
    order = np.lexsort(keys)
    places = np.stack([row[order], column[order]], axis=1).astype(np.int32)
    places.setflags(write=False)  # shared by all pictures of this size
    return places


def grid_positions(is_image: np.ndarray, grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """M-RoPE positions (time, row, column) of a row's tokens: int32 [n, 3].

    Text counts on by 1 on all axes. A picture's tokens share the time of its first one, and count rows and columns from
    there; the next token is behind the larger of both (Qwen2-VL, §2.1).

    Args:
      is_image: bool [n]. grids: rows and columns of tokens of each picture, in order.
    """
    positions = np.empty((len(is_image), 3), np.int32)
    place, now, images = 0, 0, np.flatnonzero(is_image)
    for rows, columns in grids:
        first = int(images[0])
        positions[place:first] = (now + np.arange(first - place))[:, None]
        now += first - place
        place = first + rows * columns
        positions[first:place, 0] = now
        positions[first:place, 1] = now + np.repeat(np.arange(rows), columns)
        positions[first:place, 2] = now + np.tile(np.arange(columns), rows)
        now += max(rows, columns)
        images = images[rows * columns :]
    positions[place:] = (now + np.arange(len(is_image) - place))[:, None]
    return positions


def text_behind(positions: np.ndarray, count: int) -> np.ndarray:
    """Positions of ``count`` tokens of text behind a row's, [n] or [n, 3]: counted on from the largest, on all axes."""
    places = positions.max(initial=-1) + 1 + np.arange(count, dtype=np.int32)
    return np.broadcast_to(places.reshape(-1, *[1] * (positions.ndim - 1)), (count, *positions.shape[1:]))
