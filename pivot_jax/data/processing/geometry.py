"""How an image becomes the arrays that an encoder takes.

There are three ways, with one protocol (:class:`Geometry`): one square (:class:`Square`), a padded list of patches
(``patches.Patches``), or several square tiles (``tiles.Tiles``). Which one a model takes follows from its preset and
from ``config.data.image``; nothing outside these three files asks which it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from pivot_jax.data.processing.images import pad_to_square, preprocess, preset_of


class ImageArrays(NamedTuple):
    """The images of one row, or of many with more leading axes. a: arrays (images, or tiles), p: patches of an array.

    Attributes:
      pixels: uint8 [..., a, size, size, 3], or patches [..., a, p, patch * patch * 3].
      positions: int32 [..., a, p, 2], (row, column) of each patch in its image's grid, -1 at padding; None for squares.
    """

    pixels: np.ndarray
    positions: np.ndarray | None = None

    def pairs(self, other: ImageArrays) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(our array, the other's) for each field that both have."""
        return ((own, its) for own, its in zip(self, other, strict=True) if own is not None and its is not None)


class View(NamedTuple):
    """What an encoder sees of an image, or of a part of it, to look at.

    Attributes:
      pixels: uint8 [h, w, 3], before normalisation.
      cell: pixels per side of what becomes one feature; 0: the features form no square.
      tile: pixels per side of the tiles that it consists of; 0: it is one array.
    """

    pixels: np.ndarray
    cell: int
    tile: int = 0


class TokenMix(NamedTuple):
    """Image tokens that are weighted sums of features, for n tokens.

    Attributes:
      taps: int32 [n, 4]; index of a feature among the row's, -1 is the learned newline vector.
      weights: float32 [n, 4]; they sum to 1.
    """

    taps: np.ndarray
    weights: np.ndarray


class Geometry(Protocol):
    """From images to arrays, and how many tokens an image takes.

    Attributes:
      preset: key of ``images.PRESETS``: resizing, cropping, mean and standard deviation.
      features: features that the encoder returns for one array.
      arrays: arrays of one image.
      fixed: whether every image takes the same number of tokens, whatever its size.
      size: pixels of a square's side; 0 for patch lists, whose images keep their own size.
    """

    @property
    def preset(self) -> str: ...

    @property
    def features(self) -> int: ...

    @property
    def arrays(self) -> int: ...

    @property
    def fixed(self) -> bool: ...

    @property
    def size(self) -> int: ...

    def token_grid(self, reference: Any) -> tuple[int, int]:
        """Rows and columns of an image's tokens. Raises UserError where the image's size cannot be read."""
        ...

    def token_slots(self, rows: int, columns: int) -> np.ndarray:
        """Index of each token of such a grid, row by row, among the image's features: int32 [rows * columns]."""
        ...

    def mix(self, reference: Any) -> TokenMix | None:
        """Which features an image's tokens are made of; None where token i is the feature at its slot."""
        ...

    def empty(self, *shape: int) -> ImageArrays:
        """Arrays of the given leading shape without an image: zeros, and -1 as positions."""
        ...

    def convert(self, image: Image.Image, alone: bool) -> ImageArrays:
        """The arrays of one image. ``alone``: it is the only one of its row."""
        ...

    def views(self, found: ImageArrays, height: int, width: int) -> list[View]:
        """The arrays of one image of height x width pixels as images again: the inverse of :meth:`convert`."""
        ...

    def resized(self, image: Image.Image, alone: bool) -> Image.Image:
        """The image for a program that prepares it in the same way again: where that is one resizing, after it."""
        ...

    def resized_mask(self, mask: Image.Image) -> np.ndarray:
        """A mask of ids, resized (nearest) and cropped as an image of its size is: [H, W]."""
        ...

    def fits(self, slots: np.ndarray, positions: np.ndarray | None) -> bool:
        """Whether a row's ``image_slots`` [n] were made for images of these patch positions [a, p, 2]."""
        ...


def blank(shape: tuple[int, ...], preset: str) -> np.ndarray:
    """Pixels of the preset's mean colour, 0 after normalisation: uint8 of ``shape``, whose last axis counts colours."""
    mean = np.rint(255 * np.asarray(preset_of(preset).mean)).astype(np.uint8)
    return np.broadcast_to(mean, (*shape[:-1], shape[-1] // 3, 3)).reshape(shape).copy()


@dataclass(frozen=True)
class Square:
    """Each image is resized, and perhaps cropped, to one square of ``size`` pixels, which takes ``features`` tokens."""

    preset: str
    size: int
    features: int
    arrays: int = 1
    fixed: bool = True

    def token_grid(self, reference: Any = None) -> tuple[int, int]:
        """A square of tokens where their number is one, else one row. The image is not opened."""
        side = math.isqrt(self.features)
        rows = side if side**2 == self.features else 1
        return rows, self.features // rows

    def token_slots(self, rows: int, columns: int) -> np.ndarray:
        return np.arange(rows * columns, dtype=np.int32)

    def mix(self, reference: Any) -> None:
        return None

    def empty(self, *shape: int) -> ImageArrays:
        return ImageArrays(np.zeros((*shape, self.size, self.size, 3), np.uint8))

    def convert(self, image: Image.Image, alone: bool = True) -> ImageArrays:
        """uint8 [1, size, size, 3]. Several images of a row are padded to squares first, as LLaVA does."""
        image = image if alone else pad_to_square(image, self.preset)
        return ImageArrays(preprocess(image, self.preset, self.size)[None])

    def views(self, found: ImageArrays, height: int = 0, width: int = 0) -> list[View]:
        side = math.isqrt(self.features)
        return [View(found.pixels[0], self.size // side if side**2 == self.features else 0)]

    def resized(self, image: Image.Image, alone: bool = True) -> Image.Image:
        return Image.fromarray(self.convert(image, alone).pixels[0])

    def resized_mask(self, mask: Image.Image) -> np.ndarray:
        return preprocess(mask, self.preset, self.size, Image.Resampling.NEAREST)

    def fits(self, slots: np.ndarray, positions: np.ndarray | None) -> bool:
        return True
