"""Any-resolution tiling (LLaVA-OneVision): a large image as one overview and several tiles of full resolution.

The image is fitted into the grid of tiles that keeps most of its pixels, on a black canvas. The tiles' features form
one map. Its margins are removed, the map is shrunk where it has more positions than ``max_9`` allows, and a learned
newline vector ends each of its rows. For the model, all of that is one weighted sum of features per image token:
:func:`layout` says which. Letters: t tiles with the overview, n image tokens, p patches of a tile.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pivot_jax.data.processing.geometry import ImageArrays, TokenMix, View
from pivot_jax.data.processing.images import preset_of, size_of

GRID_SIDE = 6  # tiles per side at most
MAX_TILES_OF_MAP = 9  # the map may have as many positions as this many tiles; "anyres_max_9"
SHRINK_FROM = 1.1  # a map that is larger by up to this factor per side is left as it is
TAPS = 4  # features that a token is made of: two rows and two columns around a position of the shrunk map


@dataclass(frozen=True)
class Tiles:
    """Each image becomes an overview and several tiles (a ``geometry.Geometry``). Build with :func:`tiles_of`.

    Attributes:
      preset: key of ``images.PRESETS``.
      size: pixels of a tile's side. side: its patches per side.
      arrays: the most tiles of an image, the overview included.
    """

    preset: str
    size: int
    side: int
    arrays: int
    fixed: bool = False

    @property
    def features(self) -> int:
        return self.side**2

    def token_grid(self, reference: Any) -> tuple[int, int]:
        """One row: the rows of the overview and of the map differ in length."""
        return 1, len(self._layout(*size_of(reference)).taps)

    def token_slots(self, rows: int, columns: int) -> np.ndarray:
        return np.arange(rows * columns, dtype=np.int32)

    def mix(self, reference: Any) -> TokenMix:
        return self._layout(*size_of(reference))

    def _layout(self, height: int, width: int) -> TokenMix:
        return layout(height, width, self.size, self.arrays, self.side)

    def empty(self, *shape: int) -> ImageArrays:
        return ImageArrays(np.zeros((*shape, self.size, self.size, 3), np.uint8))

    def convert(self, image: Image.Image, alone: bool = True) -> ImageArrays:
        """uint8 [arrays, size, size, 3]; zeros after the image's last tile."""
        found = tiles(image, self.size, self.arrays, preset_of(self.preset).interpolation)
        out = self.empty(self.arrays)
        out.pixels[: len(found)] = found
        return out

    def views(self, found: ImageArrays, height: int, width: int) -> list[View]:
        """The overview, and the tiles put together."""
        rows, columns = tile_grid(height, width, self.size, self.arrays)
        overview, *own = found.pixels[: 1 + rows * columns]
        whole = np.stack(own).reshape(rows, columns, self.size, self.size, 3).transpose(0, 2, 1, 3, 4)
        cell = self.size // self.side
        whole = whole.reshape(rows * self.size, columns * self.size, 3)
        return [View(overview, cell), View(whole, cell, self.size)]

    def resized(self, image: Image.Image, alone: bool = True) -> Image.Image:
        """The image itself: its tiles follow from its own size."""
        return image

    def resized_mask(self, mask: Image.Image) -> np.ndarray:
        return np.asarray(mask)

    def fits(self, slots: np.ndarray, positions: np.ndarray | None) -> bool:
        return True


def tiles_of(section: Mapping[str, Any], patch: int) -> Tiles | None:
    """Geometry of ``config.data.image``; None where an image is one square."""
    if section["max_tiles"] <= 1:
        return None
    return Tiles(section["preset"], section["size"], section["size"] // patch, section["max_tiles"])


def tile_grid(height: int, width: int, tile: int, max_tiles: int) -> tuple[int, int]:
    """Rows and columns of tiles for an image of height x width pixels.

    The grid in which the fitted image keeps most pixels, and among equals the one that wastes least. ``max_tiles``
    includes the overview.
    """
    best, kept, wasted = (1, 1), 0, math.inf
    sides = range(1, GRID_SIDE + 1)
    for rows, columns in ((r, c) for r in sides for c in sides if r * c < max_tiles):
        tall, wide = rows * tile, columns * tile
        scale = min(wide / width, tall / height)
        fitted = min(int(width * scale) * int(height * scale), width * height)
        waste = tall * wide - fitted
        if fitted > kept or (fitted == kept and waste < wasted):
            best, kept, wasted = (rows, columns), fitted, waste
    return best


def tiles(image: Image.Image, tile: int, max_tiles: int, interpolation: Image.Resampling) -> np.ndarray:
    """The overview (squashed to a square) and the tiles row by row: uint8 [t, tile, tile, 3]."""
    width, height = image.size
    rows, columns = tile_grid(height, width, tile, max_tiles)
    tall, wide = rows * tile, columns * tile
    if wide / width < tall / height:
        fitted = (wide, min(math.ceil(height * (wide / width)), tall))
    else:
        fitted = (min(math.ceil(width * (tall / height)), wide), tall)
    canvas = Image.new("RGB", (wide, tall))
    canvas.paste(image.resize(fitted, interpolation), ((wide - fitted[0]) // 2, (tall - fitted[1]) // 2))
    pixels = np.asarray(canvas).reshape(rows, tile, columns, tile, 3).transpose(0, 2, 1, 3, 4)
    overview = np.asarray(image.resize((tile, tile), interpolation))
    return np.concatenate([overview[None], pixels.reshape(-1, tile, tile, 3)])


@functools.lru_cache(maxsize=64)
def layout(height: int, width: int, tile: int, max_tiles: int, grid: int) -> TokenMix:
    """Tokens of an image of height x width pixels whose tiles have ``grid`` patches per side.

    Taps index the image's t*p features tile by tile.
    """
    rows, columns = tile_grid(height, width, tile, max_tiles)
    whole = (rows * grid, columns * grid)
    top, left = _margins(height, width, *whole)
    tall, wide = whole[0] - 2 * top, whole[1] - 2 * left
    ratio = math.sqrt(tall * wide / (MAX_TILES_OF_MAP * grid**2))
    shrunk = (int(tall // ratio), int(wide // ratio)) if ratio > SHRINK_FROM else (tall, wide)
    y, down = _taps(tall, shrunk[0])
    x, across = _taps(wide, shrunk[1])
    y, x = y + top, x + left
    # position (y, x) of the map is patch (y % grid, x % grid) of tile (y // grid, x // grid); tile 0 is the overview
    index = 1 + (y // grid)[:, None, :, None] * columns + (x // grid)[None, :, None, :]
    index = index * grid**2 + (y % grid)[:, None, :, None] * grid + (x % grid)[None, :, None, :]
    weights = down[:, None, :, None] * across[None, :, None, :]
    slots, weights = index.reshape(*shrunk, TAPS), weights.reshape(*shrunk, TAPS)
    newline = np.full((shrunk[0], 1, TAPS), -1), np.full((shrunk[0], 1, TAPS), 1 / TAPS)
    slots, weights = (np.concatenate(pair, axis=1) for pair in ((slots, newline[0]), (weights, newline[1])))
    overview = np.repeat(np.arange(grid**2)[:, None], TAPS, axis=1), np.full((grid**2, TAPS), 1 / TAPS)
    return TokenMix(
        np.concatenate([overview[0], slots.reshape(-1, TAPS)]).astype(np.int32),
        np.concatenate([overview[1], weights.reshape(-1, TAPS)]).astype(np.float32),
    )


def _margins(height: int, width: int, tall: int, wide: int) -> tuple[int, int]:
    """Rows above and columns left of the image in a map of tall x wide positions.

    As many are below and to the right.
    """
    if width / height > wide / tall:
        return (tall - int(round(height * (wide / width), 7))) // 2, 0
    return 0, (wide - int(round(width * (tall / height), 7))) // 2


def _taps(size: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``target`` positions the two of ``size`` around it and their weights, both [target, 2] (bilinear)."""
    centre = np.maximum((np.arange(target) + 0.5) * (size / target) - 0.5, 0)
    low = np.floor(centre).astype(int)
    share = centre - low
    return np.stack([low, np.minimum(low + 1, size - 1)], 1), np.stack([1 - share, share], 1)
