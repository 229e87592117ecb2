"""Where an image's loss gradient falls on the patches: the paper's maps, and numbers for what they claim.

The published maps are images only. Here a map is also scored against an object's mask: whether its peak hits the object
(pointing game), how much of it is on the object (energy), and how spread out it is (entropy).
Letters: b rows, p patches, d width, s side of the patch grid, H, W image size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from pivot_jax.data.example import Example, Message
from pivot_jax.errors import UserError
from pivot_jax.models.logprobs import answer_logps, score
from pivot_jax.models.mllm import MLLM
from pivot_jax.train.open import OpenModel

NORMS = ("l1", "l2")


def question_map(
    run: OpenModel, image: Any, prompt: str, answer: str, rejected: str | None = None, *, norm: str = "l1"
) -> tuple[np.ndarray, np.ndarray]:
    """The map of one question about one image.

    Args:
      image: a path, or uint8 [h, w, 3].
      rejected: a second answer, for the preference loss (see :func:`answer_maps`).

    Returns:
      The image as the encoder reads it, uint8 [H, W, 3], and the map, float32 [s, s].

    Raises:
      UserError: an image that cannot be read, or a run with a variable-resolution encoder.
    """
    if not run.processor.geometry.fixed:
        family = run.mllm.config.vision.family
        raise UserError(f"{run.name} has a {family} encoder; a gradient map needs an encoder of square images")
    example = Example("gradmap", (Message("user", f"<image>\n{prompt}"),), (image,), answer, rejected)
    batch = run.processor.for_kind("sft" if rejected is None else "preference").batch_of([example])
    maps = answer_maps(run.mllm, run.params, batch, preference=rejected is not None, norm=norm)
    return batch.images[0, 0], maps[0]


def answer_maps(mllm: MLLM, params: dict[str, Any], batch: Any, *, preference: bool, norm: str = "l1") -> np.ndarray:
    """Maps of −log p(chosen), or, with ``preference``, of −(log p(chosen) − log p(rejected)).

    The second is DPO's gradient up to a positive factor, for any reference model (closed form of the gradient,
    Rafailov et al. 2023, section 4).

    Args:
      batch: a ``VLMBatch`` of b rows with one square image each.

    Returns:
      float32 [b, s, s].
    """

    def loss(features: Any) -> Any:
        logps = answer_logps(score(mllm, params, batch, features), batch)
        return -jnp.sum(logps[..., 0] - logps[..., 1] if preference else logps[..., 0])

    features = mllm.apply({"params": params}, batch.images, method="encode_images")
    return gradient_maps(loss, features, norm=norm)


def gradient_maps(loss: Callable[[Any], Any], features: Any, *, norm: str = "l1") -> np.ndarray:
    """Size of ∂loss/∂features per patch, as one square grid per row.

    Args:
      loss: features [b, p, d] → scalar, with the rest of the model closed over.
      norm: "l1" Σ_d |∂L/∂A| (the paper's), or "l2".

    Returns:
      float32 [b, s, s] with s = √p, not normalised, in row-major patch order.
    """
    gradients = np.asarray(jax.jit(jax.grad(loss))(features), np.float32)
    return np.stack([token_map(gradient, norm=norm) for gradient in gradients])


def token_map(gradient: np.ndarray, *, norm: str = "l1") -> np.ndarray:
    """Gradient [p, d] → [s, s], its size per patch."""
    if norm not in NORMS:
        raise ValueError(f"norm '{norm}' is unknown; choose one of {', '.join(NORMS)}")
    side = round(gradient.shape[0] ** 0.5)
    if gradient.ndim != 2 or side * side != gradient.shape[0]:
        raise ValueError(f"a map needs the gradient of a square number of patches [p, d], got {gradient.shape}")
    size = np.abs(gradient).sum(1) if norm == "l1" else np.sqrt((gradient**2).sum(1))
    return size.reshape(side, side).astype(np.float32)


def replace_border(grid: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Border rows and columns replaced by one of their two inner neighbours, drawn by ``seed``.

    Encoders store global information in border patches (register artefacts), which would outshine everything else.
    """
    if min(grid.shape) < 4:
        return grid.copy()  # there are no inner rows
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
    """Bilinear to (H, W); float32, within the range of the grid."""
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
    """The paper's image: border replaced, min–max, γ, bilinear, jet at ``alpha`` over the darkened image.

    Args:
      image: uint8 [H, W, 3]. grid: [s, s] from :func:`gradient_maps`. border: replace the border patches.

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
    """How well a map covers an object. Compare ``energy`` with ``area``: a uniform map has energy = area."""

    hit: bool  # the peak is on the object
    energy: float  # share of the map's mass on the object, 0..1
    area: float  # share of the image that the object covers, 0..1: the chance level of both
    entropy: float  # of the map as a distribution over patches, 0 (one patch) .. 1 (uniform)

    @property
    def lift(self) -> float:
        """Energy over area; 1 is chance."""
        return self.energy / self.area if self.area > 0 else float("nan")


def localise(grid: np.ndarray, mask: np.ndarray) -> Localisation:
    """Scores a map [s, s] (≥ 0, not min–max normalised) against an object mask [H, W] (bool or 0/1).

    Energy weighs each patch by the share of it that the object covers. The peak is the patch with the largest value. It
    hits if the object covers at least half of that patch. If no patch is half covered, it hits if the object covers as
    much of that patch as of any other.

    Raises:
      ValueError: an empty mask, negative values, or a mask of a size that does not divide into the grid's patches.
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
    # The encoder ignores the rest of an image that is not a multiple of the patch (384 = 27 * 14 + 6).
    if not tall or not wide or height // tall != rows or width // wide != columns:
        raise ValueError(
            f"a mask of {height}x{width} does not divide into {rows}x{columns} patches; resize it to the encoder's size"
        )
    used = mask[: rows * tall, : columns * wide]
    return used.reshape(rows, tall, columns, wide).mean(axis=(1, 3))
