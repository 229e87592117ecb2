"""Variable-resolution images as lists of patches: their size, their patches, and the slots of their tokens.

Qwen2-VL and Qwen2.5-VL (:func:`smart_size`) and SigLIP2 NaFlex (:func:`naflex_size`) nearly keep an image's aspect
ratio. Every patch has a position (row, column) in the image's grid. An encoder that merges ``merge`` x ``merge``
patches into a token needs them next to each other, and one with windows is faster when a window's patches are adjacent.
So the preset orders the patches, and ``token_slots`` maps the tokens, which the language model reads row by row, to the
merged patches. Letters: p patches of the padded list, i values of a patch (rows, columns, colours), n tokens of a row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pivot_jax.data.processing.geometry import ImageArrays, View
from pivot_jax.data.processing.images import Preset, preset_of, size_of
from pivot_jax.errors import UserError

LARGEST_RATIO = 200  # of an image's sides; Qwen's processor rejects more


@dataclass(frozen=True)
class Patches:
    """Each image becomes one padded list of patches (a ``geometry.Geometry``). Build with :func:`patches_of`.

    Attributes:
      preset: key of ``images.PRESETS``.
      patch: pixels of a patch's side.
      most: p, patches of the padded list; an image that would have more is made smaller.
      min_pixels, max_pixels: of a resized image (Qwen).
      window: patches per side of the windows whose patches are adjacent; 0: one window. It changes speed only.
    """

    preset: str
    patch: int
    most: int
    min_pixels: int
    max_pixels: int
    window: int = 0
    arrays: int = 1
    fixed: bool = False
    size: int = 0

    @property
    def rule(self) -> Preset:
        return preset_of(self.preset)

    @property
    def features(self) -> int:
        """Merged patches of the padded list."""
        return self.most // self.rule.merge**2

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image of this size in pixels."""
        if self.rule.sizing == "naflex":
            size = naflex_size(height, width, self.patch, self.most)
        else:
            unit = self.patch * self.rule.merge
            limit = min(self.max_pixels, self.most * self.patch**2)
            size = smart_size(height, width, unit, min(self.min_pixels, limit), limit)
        rows, columns = (side // self.patch for side in size)
        return _shorten(rows, columns, self.most, self.rule.merge)

    def token_grid(self, reference: Any) -> tuple[int, int]:
        rows, columns = self.grid(*size_of(reference))
        return rows // self.rule.merge, columns // self.rule.merge

    def order(self, rows: int, columns: int) -> np.ndarray:
        """Positions of a grid's patches in the preset's order: int32 [rows * columns, 2]."""
        return _order(rows, columns, self.rule.merge, self.window)

    def token_slots(self, rows: int, columns: int) -> np.ndarray:
        merge = self.rule.merge
        first = self.order(rows * merge, columns * merge)[:: merge**2] // merge
        slots = np.empty(rows * columns, np.int32)
        slots[first[:, 0] * columns + first[:, 1]] = np.arange(rows * columns)
        return slots

    def mix(self, reference: Any) -> None:
        return None

    def empty(self, *shape: int) -> ImageArrays:
        pixels = np.zeros((*shape, self.most, self.patch**2 * 3), np.uint8)
        return ImageArrays(pixels, np.full((*shape, self.most, 2), -1, np.int32))

    def convert(self, image: Image.Image, alone: bool = True) -> ImageArrays:
        """Patches, uint8 [1, p, i], and their positions, int32 [1, p, 2]; zeros and -1 after the last one.

        Equal to ``Qwen2VLImageProcessorPil`` and ``Siglip2ImageProcessorPil`` before their normalisation.
        """
        rows, columns = self.grid(image.height, image.width)
        pixels = np.asarray(self.resized(image)).reshape(rows, self.patch, columns, self.patch, 3)
        pixels = pixels.transpose(0, 2, 1, 3, 4).reshape(rows, columns, -1)
        out = self.empty(1)
        assert out.positions is not None
        order = self.order(rows, columns)
        out.pixels[0, : len(order)], out.positions[0, : len(order)] = pixels[order[:, 0], order[:, 1]], order
        return out

    def views(self, found: ImageArrays, height: int, width: int) -> list[View]:
        rows, columns = self.grid(height, width)
        assert found.positions is not None
        row, column = found.positions[0, : rows * columns].T
        pixels = np.zeros((rows, columns, self.patch, self.patch, 3), np.uint8)
        pixels[row, column] = found.pixels[0, : rows * columns].reshape(-1, self.patch, self.patch, 3)
        whole = pixels.transpose(0, 2, 1, 3, 4).reshape(rows * self.patch, columns * self.patch, 3)
        return [View(whole, self.patch * self.rule.merge)]

    def resized(self, image: Image.Image, alone: bool = True) -> Image.Image:
        rows, columns = self.grid(image.height, image.width)
        size = (columns * self.patch, rows * self.patch)
        return image if image.size == size else image.resize(size, self.rule.interpolation)

    def resized_mask(self, mask: Image.Image) -> np.ndarray:
        rows, columns = self.grid(mask.height, mask.width)
        return np.asarray(mask.resize((columns * self.patch, rows * self.patch), Image.Resampling.NEAREST))

    def fits(self, slots: np.ndarray, positions: np.ndarray | None) -> bool:
        assert positions is not None
        image_of_token = slots[slots >= 0] // self.features
        patches = (positions[..., 0] >= 0).sum(-1)
        return bool((np.bincount(image_of_token, minlength=len(positions)) * self.rule.merge**2 == patches).all())


def patches_of(section: Mapping[str, Any], patch: int) -> Patches | None:
    """Geometry of ``config.data.image``; None where the preset makes squares.

    Raises:
      UserError: an unknown preset, or a number of patches that it cannot work with.
    """
    name, most = section["preset"], section["max_patches"]
    preset = preset_of(name)
    if not preset.sizing:
        return None
    if most < 1 or most % preset.merge**2:
        unit = f"a multiple of {preset.merge**2}" if preset.merge > 1 else "at least 1"
        raise UserError(
            f"data.image.max_patches: {most}, but preset '{name}' splits variable-resolution images into patches and "
            f"needs their largest number: {unit}, such as 1024"
        )
    return Patches(name, patch, most, section["min_pixels"], section["max_pixels"], preset.window // patch)


def smart_size(height: int, width: int, unit: int, least: int, most: int) -> tuple[int, int]:
    """Height and width, multiples of ``unit`` pixels, near the image's aspect ratio, with ``least`` to ``most`` pixels.

    Qwen2-VL's rule; halves are rounded to even. A side is at least one unit, so a very long image may keep more than
    ``most`` pixels.

    Raises:
      UserError: one side is more than 200 times the other.
    """
    if max(height, width) > LARGEST_RATIO * min(height, width):
        raise UserError(f"an image of {width}x{height} pixels: one side is more than {LARGEST_RATIO} times the other")
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
    """The grid, its longer side shortened where a very long image would still have more than ``most`` patches."""
    short = min(rows, columns)
    long = min(max(rows, columns), max(1, most // short // merge) * merge)
    return (short, long) if rows <= columns else (long, short)


@functools.lru_cache(maxsize=512)
def _order(rows: int, columns: int, merge: int, window: int) -> np.ndarray:
    """Windows row by row, merged tokens row by row in each, patches in each of these; ``window`` 0: one window."""
    row, column = (x.ravel() for x in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    keys = [column, row, column // merge, row // merge]  # the last key is the primary one
    if window:
        keys += [column // window, row // window]
    order = np.lexsort(keys)
    positions = np.stack([row[order], column[order]], axis=1).astype(np.int32)
    positions.setflags(write=False)  # shared by all images of this size
    return positions


def grid_positions(is_image: np.ndarray, grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """M-RoPE positions (time, row, column) of a row's tokens: int32 [n, 3].

    Text counts up by 1 on all axes. An image's tokens share the time of its first one, and count rows and columns from
    there; the next token follows the larger of both (Qwen2-VL, §2.1).

    Args:
      is_image: bool [n]. grids: rows and columns of tokens of each image, in order.
    """
    positions = np.empty((len(is_image), 3), np.int32)
    done, now, images = 0, 0, np.flatnonzero(is_image)
    for rows, columns in grids:
        first = int(images[0])
        positions[done:first] = (now + np.arange(first - done))[:, None]
        now += first - done
        done = first + rows * columns
        positions[first:done, 0] = now
        positions[first:done, 1] = now + np.repeat(np.arange(rows), columns)
        positions[first:done, 2] = now + np.tile(np.arange(columns), rows)
        now += max(rows, columns)
        images = images[rows * columns :]
    positions[done:] = (now + np.arange(len(is_image) - done))[:, None]
    return positions


def positions_after(positions: np.ndarray, count: int) -> np.ndarray:
    """Positions of ``count`` text tokens after a row's, [n] or [n, 3]: they continue from the largest, on all axes."""
    added = positions.max(initial=-1) + 1 + np.arange(count, dtype=np.int32)
    return np.broadcast_to(added.reshape(-1, *[1] * (positions.ndim - 1)), (count, *positions.shape[1:]))
