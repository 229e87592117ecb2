"""Where an image's loss gradient lands on the patches: the paper's maps, and numbers for what they claim.

The published maps are pictures. Here a map is also scored against an object's mask: does its peak hit the object
(pointing game), how much of it lies on the object (energy), how spread out is it (entropy).
Letters: p patches, d width, s side of the patch grid, H, W image size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

NORMS = ("l1", "l2")


def gradient_map(loss: Callable[[Any], Any], features: Any, *, norm: str = "l1") -> np.ndarray:
    """Size of ∂loss/∂features per patch, as a square grid.

    Args:
      loss: features [p, d] (or [1, p, d]) → scalar; the rest of the model closed over.
      norm: "l1" Σ_d |∂L/∂A| (the paper's), or "l2".

    Returns:
      float32 [s, s] with s = √p, not normalised, in row-major patch order.
    """
    gradient = np.asarray(jax.grad(lambda x: jnp.asarray(loss(x), jnp.float32))(jnp.asarray(features)), np.float32)
    return token_map(gradient, norm=norm)


def token_map(gradient: np.ndarray, *, norm: str = "l1") -> np.ndarray:
    """Gradient [p, d] (or [1, p, d]) → [s, s] of its size per patch."""
    if norm not in NORMS:
        raise ValueError(f"norm '{norm}' is unknown; there are {', '.join(NORMS)}")
    if gradient.ndim == 3 and len(gradient) == 1:
        gradient = gradient[0]
    side = round(gradient.shape[0] ** 0.5)
    if gradient.ndim != 2 or side * side != gradient.shape[0]:
        raise ValueError(f"a map needs the gradient of a square number of patches [p, d], got {gradient.shape}")
    size = np.abs(gradient).sum(1) if norm == "l1" else np.sqrt((gradient**2).sum(1))
    return size.reshape(side, side).astype(np.float32)


def replace_border(grid: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Border rows and columns replaced by one of their two inner neighbours, drawn by ``seed``.

    Encoders park global information in border patches (register artefacts), which would outshine all else.
    """
    if min(grid.shape) < 4:
        return grid.copy()  # nothing is inside
    generator = np.random.default_rng(seed)
    out = grid.copy()
    out[0], out[-1] = out[generator.integers(1, 3)], out[-generator.integers(2, 4)]
    out[:, 0], out[:, -1] = out[:, generator.integers(1, 3)], out[:, -generator.integers(2, 4)]
    return out


def normalised(grid: np.ndarray, *, gamma: float = 1.1) -> np.ndarray:
    """Min–max to [0, 1], then to the power γ; a constant map becomes 0."""
    low, high = float(grid.min()), float(grid.max())
    if not high > low:
        return np.zeros_like(grid, np.float32)
    return (((grid - low) / (high - low)) ** gamma).astype(np.float32)


def enlarged(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear to (H, W); float32, values stay within the grid's."""
    height, width = size
    return np.asarray(Image.fromarray(grid.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))


def overlay(
    image: np.ndarray,
    grid: np.ndarray,
    *,
    border: bool = True,
    gamma: float = 1.1,
    alpha: float = 0.6,
    brightness: float = 0.7,
    colours: str = "jet",
    seed: int = 0,
) -> np.ndarray:
    """The paper's picture: border replaced, min–max, γ, bilinear, jet at ``alpha`` over the darkened image.

    Args:
      image: uint8 [H, W, 3]. grid: [s, s] from :func:`gradient_map`. border: replace border patches.

    Returns:
      uint8 [H, W, 3].
    """
    from matplotlib import colormaps

    cleaned = replace_border(grid, seed=seed) if border else grid
    heat = np.clip(enlarged(normalised(cleaned, gamma=gamma), image.shape[:2]), 0, 1)
    coloured = colormaps[colours](heat)[:, :, :3] * 255
    return np.clip(alpha * coloured + (1 - alpha) * brightness * image, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Localisation:
    """How a map lies on an object. Compare ``energy`` with ``area``: an even map has energy = area."""

    hit: bool  # the peak lies on the object
    energy: float  # share of the map's mass on the object, 0..1
    area: float  # share of the image that the object covers, 0..1: what chance gives for both
    entropy: float  # of the map as a distribution over patches, 0 (one patch) .. 1 (even)

    @property
    def lift(self) -> float:
        """Energy over area; 1 is chance."""
        return self.energy / self.area if self.area > 0 else float("nan")


def localise(grid: np.ndarray, mask: np.ndarray) -> Localisation:
    """Scores a map [s, s] (≥ 0, not min–max normalised) against an object mask [H, W] (bool or 0/1).

    Energy weighs each patch by the share of it that the object covers. The peak is the patch of the largest value; it
    hits where the object covers half of that patch, or, where no patch is half covered, as much as of any patch.

    Raises:
      ValueError: an empty mask, negative values, or a mask whose size does not give the grid's patches.
    """
    mask = np.asarray(mask, np.float64) > 0
    if not mask.any():
        raise ValueError("localise: the mask is empty; there is no object to point at")
    if (grid < 0).any():
        raise ValueError("localise: a map of gradient sizes has no negative values")
    cover = patch_cover(mask, grid.shape)
    total = float(grid.sum())
    share = grid / total if total > 0 else np.full_like(grid, 1 / grid.size)
    peak = np.unravel_index(int(grid.argmax()), grid.shape)
    needed = min(0.5, float(cover.max()))
    positive = share[share > 0]
    entropy = float(-(positive * np.log(positive)).sum() / np.log(grid.size)) if grid.size > 1 else 0.0
    return Localisation(bool(cover[peak] >= needed), float((share * cover).sum()), float(mask.mean()), entropy)


def patch_cover(mask: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Share of each patch that the mask covers: bool [H, W] → float64 [s, s]."""
    height, width = mask.shape
    rows, columns = grid
    tall, wide = height // rows, width // columns
    # What is left of an image that is no multiple of the patch (384 = 27 * 14 + 6) the encoder does not see.
    if not tall or not wide or height // tall != rows or width // wide != columns:
        raise ValueError(
            f"a mask of {height}x{width} has no {rows}x{columns} patches; resize it to the encoder's input"
        )
    seen = mask[: rows * tall, : columns * wide]
    return seen.reshape(rows, tall, columns, wide).mean(axis=(1, 3))
