"""How well a map covers an object: pointing game, energy inside, best-threshold IoU, and entropy.

Letters: s side of the patch grid, H, W image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pivot_jax.data.processing.geometry import Geometry
from pivot_jax.data.processing.images import load, size_of
from pivot_jax.errors import UserError

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels; right and bottom are outside


@dataclass(frozen=True)
class Localisation:
    """How well a map covers an object. Compare ``energy`` with ``area``: a uniform map has energy = area.

    Attributes:
      hit: whether the peak is on the object (pointing game, Zhang et al. 2018); chance is ``area``.
      energy: share of the map's mass on the object, 0 to 1 (Wang et al. 2020).
      area: share of the image that the object covers, 0 to 1.
      entropy: see :func:`entropy`.
      iou: the best, over all thresholds, of the overlap of the patches above it with the object, 0 to 1; at least
        ``area``, which the lowest threshold gives.
    """

    hit: bool
    energy: float
    area: float
    entropy: float
    iou: float

    @property
    def lift(self) -> float:
        """Energy over area; 1 is chance."""
        return self.energy / self.area if self.area > 0 else float("nan")


def localise(grid: np.ndarray, mask: np.ndarray) -> Localisation:
    """Scores a map [s, s] (≥ 0, not min–max normalised) against an object mask [H, W] (bool or 0/1).

    Energy weighs each patch by the share of it that the object covers. The peak is the patch with the largest value. It
    hits if the object covers at least half of that patch. If no patch is half covered, it hits if the object covers as
    much of that patch as of any other. A map that is the same everywhere has no peak and hits nothing.

    Raises:
      ValueError: an empty mask, negative values, or a mask of a size that does not divide into the grid's patches.
    """
    mask = np.asarray(mask, np.float64) > 0
    if not mask.any():
        raise ValueError("localise: the mask is empty; there is no object to point at")
    if (grid < 0).any():
        raise ValueError("localise: a map of gradient sizes has no negative values")
    cover = patch_cover(mask, grid.shape)
    peak = np.unravel_index(int(grid.argmax()), grid.shape)
    hit = bool(grid.max() > grid.min()) and bool(cover[peak] >= min(0.5, float(cover.max())))
    energy = float((_shares(grid) * cover).sum())
    return Localisation(hit, energy, float(mask.mean()), entropy(grid), best_iou(grid, cover))


def entropy(grid: np.ndarray) -> float:
    """Entropy of a map ≥ 0 as a distribution over patches, 0 (one patch) to 1 (uniform): −Σ q ln q / ln s²."""
    share = _shares(grid)
    positive = share[share > 0]
    return float(-(positive * np.log(positive)).sum() / np.log(grid.size)) + 0.0 if grid.size > 1 else 0.0  # no -0.0


def best_iou(grid: np.ndarray, cover: np.ndarray) -> float:
    """Highest intersection over union of an object and the patches with values ≥ t, over all thresholds t.

    Areas are exact for maps that are constant within a patch (the mask counterpart of Choe et al. 2020's MaxBoxAcc).

    Args:
      cover: share of each patch that the object covers, [s, s].
    """
    order = np.argsort(-grid, axis=None, kind="stable")
    values, inside = grid.reshape(-1)[order], np.cumsum(cover.reshape(-1)[order])
    last = np.append(values[1:] != values[:-1], True)  # patches of equal value are above a threshold together
    chosen = np.arange(1, len(values) + 1)
    return float((inside / (chosen + cover.sum() - inside))[last].max())


def _shares(grid: np.ndarray) -> np.ndarray:
    total = float(grid.sum())
    return grid / total if total > 0 else np.full(grid.shape, 1 / grid.size)


def object_mask(geometry: Geometry, image: Any, *, mask: Any = None, boxes: Sequence[Box] = ()) -> np.ndarray:
    """The object where the encoder sees it: resized and cropped as its image is, bool [H, W].

    Args:
      image: a path, or uint8 [h, w, 3].
      mask: an image of the same size in which the object is not black.
      boxes: in pixels of the image; several count together.

    Raises:
      UserError: an image or mask that cannot be read, a mask of another size, a box that is empty or not in the image,
        or nothing of the object in the part that the encoder sees.
    """
    height, width = size_of(image)
    whole = Image.new("L", (width, height))
    if mask is not None:
        found = np.asarray(load(mask)).max(axis=2) > 0
        if found.shape != (height, width):
            raise UserError(f"mask: {found.shape[1]}x{found.shape[0]} pixels, and its image has {width}x{height}")
        whole = Image.fromarray(found.astype(np.uint8) * 255)
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise UserError(
                f"box {left:g},{top:g},{right:g},{bottom:g}: not in the image of {width}x{height} pixels; give left, "
                "top, right and bottom in them"
            )
        ImageDraw.Draw(whole).rectangle((round(left), round(top), round(right) - 1, round(bottom) - 1), fill=255)
    seen = np.asarray(geometry.resized(whole.convert("RGB"), True))[..., 0] >= 128
    if not seen.any():
        raise UserError("nothing of the object is in the part of the image that the encoder sees; give a larger object")
    return seen


def patch_cover(mask: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Share of each patch that the mask covers: bool [H, W] → float64 [s, s]."""
    height, width = mask.shape
    rows, columns = grid
    tall, wide = height // rows, width // columns
    # The encoder ignores the rest of an image that is not a multiple of the patch (384 = 27 * 14 + 6).
    if not tall or not wide or height // tall != rows or width // wide != columns:
        raise ValueError(
            f"a mask of {height}x{width} does not divide into {rows}x{columns} patches; resize it to the encoder's size"
        )
    used = mask[: rows * tall, : columns * wide]
    return used.reshape(rows, tall, columns, wide).mean(axis=(1, 3))
