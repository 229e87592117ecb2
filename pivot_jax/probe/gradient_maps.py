"""Where an answer's loss pulls on the patches of an image: the paper's gradient maps, Grad-CAM and attention rollout.

The published maps are images only; ``localisation`` scores them against an object.
Letters: l blocks, b rows, p patches, n tokens (class token, registers, patches), d width, s side of the patch grid,
H, W image size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.images import load as load_image
from pivot_jax.errors import UserError
from pivot_jax.models.logprobs import answer_logps, score
from pivot_jax.models.mllm import MLLM
from pivot_jax.models.vit import ViTConfig
from pivot_jax.train.open import LENGTH_STEP, OpenModel

ALL = "all"  # in place of a layer


@dataclass(frozen=True)
class MapSettings:
    """What a map shows.

    Attributes:
      method: ``gradient``, the size of the loss's gradient in a patch; ``gradcam``, see :func:`grad_cam`; ``rollout``,
        see :func:`rollout`, which knows no answer.
      layer: the map is of the output of this block, from 0, or a map of "all" blocks. None: of the features that the
        projector reads, and of the last block for a rollout.
      norm: of a patch's gradient: ``l1`` Σ_d |∂L/∂A| (the paper's), or ``l2``.
      encoding: of a preference loss: ``shared``, one encoding of the image for both answers; or ``separate``, one for
        each, with the map of the chosen answer's, as the paper's code does.

    Raises:
      ValueError: an unknown method, norm or encoding.
    """

    method: str = "gradient"
    layer: int | str | None = None
    norm: str = "l1"
    encoding: str = "shared"

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} '{getattr(self, name)}' is unknown; choose one of {', '.join(allowed)}")


ALLOWED = {
    "method": ("gradient", "gradcam", "rollout"),
    "norm": ("l1", "l2"),
    "encoding": ("shared", "separate"),
}  # fmt: skip
DEFAULTS = MapSettings()


def question_map(
    run: OpenModel,
    image: Any,
    prompt: str,
    answer: str,
    rejected: str | None = None,
    *,
    settings: MapSettings = DEFAULTS,
) -> tuple[np.ndarray, np.ndarray]:
    """The map of one question about one image.

    Args:
      image: a path, or uint8 [h, w, 3].
      rejected: a second answer, for the preference loss (see :func:`answer_maps`).

    Returns:
      The image as the encoder reads it, uint8 [H, W, 3], and the map, float32 [s, s]; of all layers [l, s, s]. A
      variable-resolution image has a grid of its own height and width.

    Raises:
      UserError: an image that cannot be read, an encoder that merges patches, an image in tiles, or a layer that the
        encoder does not have.
    """
    vision = run.mllm.config.vision
    if not (run.geometry.fixed or (vision.traits.patch_input and not vision.traits.merges)):
        what = f"has a {vision.family} encoder, which merges patches" if vision.traits.merges else "reads tiles"
        raise UserError(f"{run.name} {what}; a gradient map needs an image as one grid of patches")
    example = Example("gradmap", (Message("user", f"<image>\n{prompt}"),), (image,), answer, rejected)
    batch = run.processor.for_kind("sft" if rejected is None else "preference").batch_of([example], LENGTH_STEP)
    check_layer(run.name, vision, settings)
    maps = answer_maps(run.mllm, run.params, batch, preference=rejected is not None, settings=settings)
    return np.asarray(run.geometry.resized(load_image(image), True)), maps[..., 0, :, :]


def check_layer(name: str, vision: Any, settings: MapSettings) -> None:
    """Raises UserError for a layer that the encoder does not have, or that cannot be read."""
    layer = settings.layer
    if (layer is not None or settings.method == "rollout") and not isinstance(vision, ViTConfig):
        raise UserError(f"{name} has a {vision.family} encoder; only those of a ViT are read layer by layer")
    if isinstance(layer, int) and not 0 <= layer < vision.blocks:
        raise UserError(
            f"layer {layer}: {name} computes blocks 0 to {vision.blocks - 1} of its encoder; name one of them"
        )


def answer_maps(
    mllm: MLLM, params: dict[str, Any], batch: Any, *, preference: bool, settings: MapSettings = DEFAULTS
) -> np.ndarray:
    """Maps of −log p(chosen), or, with ``preference``, of −(log p(chosen) − log p(rejected)).

    The second is DPO's gradient up to a positive factor, for any reference model (closed form of the gradient,
    Rafailov et al. 2023, section 4). With one encoding for each answer, the gradient in the chosen one's is that of
    −log p(chosen) times that factor: at equal parameters the published DPO map is the SFT map. With one shared encoding
    the rejected answer is subtracted.

    Args:
      batch: a ``VLMBatch`` of b rows with one image each, all with grids of one size.

    Returns:
      float32 [b, s, s], not normalised, in row-major patch order; with ``layer="all"`` [l, b, s, s].
    """
    if settings.method == "rollout":
        values = _rollouts(mllm, params, batch)
    else:
        encoding = settings.encoding if preference else "shared"  # of one answer it is the same
        activations, gradients = _derivatives(mllm, preference, encoding, settings.layer is not None, params, batch)
        values = grad_cam(activations, gradients) if settings.method == "gradcam" else sizes(gradients, settings.norm)
    if settings.layer != ALL and values.ndim == 3:
        values = values[-1 if settings.layer is None else settings.layer]
    return on_grid(np.asarray(values, np.float32), batch.patch_positions)


def _answer_score(mllm: MLLM, batch: Any, preference: bool, encoding: str) -> Callable[[Any, Any], Any]:
    """(params, features [b, p, d]) → sum over rows of log p(chosen), or of log p(chosen) − log p(rejected)."""

    def logps(params: Any, features: Any) -> Any:
        return answer_logps(score(mllm, params, batch, features), batch)

    def value(params: Any, features: Any) -> Any:
        found = logps(params, features)
        if not preference:
            return found[..., 0].sum()
        other = found if encoding == "shared" else logps(params, jax.lax.stop_gradient(features))
        return (found[..., 0] - other[..., 1]).sum()

    return value


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _derivatives(
    mllm: MLLM, preference: bool, encoding: str, blocks: bool, params: dict[str, Any], batch: Any
) -> tuple[Any, Any]:
    """What the patches hold and the gradient of the score in it: of the features [b, p, d], or of ``blocks``."""
    score_of = _answer_score(mllm, batch, preference, encoding)
    inputs, vision = (batch.images, batch.patch_positions), mllm.config.vision
    if not blocks:
        features = mllm.apply({"params": params}, *inputs, method="encode_images")
        return features, jax.grad(score_of, argnums=1)(params, features)

    def value(offsets: Any) -> tuple[Any, Any]:
        found: Any = mllm.apply({"params": params}, inputs[0], offsets, inputs[1], method="encode_images_with_offsets")
        features, outputs = found
        return score_of(params, features), outputs

    tokens = (batch.images.shape[2] if vision.traits.patch_input else vision.patches) + vision.prefix
    zeros = jnp.zeros((vision.blocks, len(batch.images), tokens, vision.width), mllm.config.dtype)
    gradients, outputs = jax.grad(value, has_aux=True)(zeros)
    return outputs[:, :, vision.prefix :], gradients[:, :, vision.prefix :]


def _rollouts(mllm: MLLM, params: dict[str, Any], batch: Any) -> np.ndarray:
    """Rollout up to each block: [l, b, p]."""
    inputs = (batch.images, batch.patch_positions)
    weights = jax.jit(lambda params: mllm.apply({"params": params}, *inputs, method="attention_weights"))(params)
    real = None if batch.patch_positions is None else np.asarray(batch.patch_positions)[:, 0, :, 0] >= 0
    vision = mllm.config.vision
    return rollout(np.asarray(weights), vision.prefix, class_token=vision.traits.class_token, real=real)


def sizes(gradients: Any, norm: str = "l1") -> np.ndarray:
    """Size of the gradient per patch: [..., p, d] → float32 [..., p]."""
    found = np.asarray(gradients, np.float32)
    return np.abs(found).sum(-1) if norm == "l1" else np.linalg.norm(found, axis=-1)


def grad_cam(activations: Any, gradients: Any) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2): ReLU(Σ_d α_d A_pd) with α_d the mean over p of ∂y/∂A_pd.

    Args:
      activations, gradients: [..., p, d] of patches, and the gradients of a score y (log p, not the loss).

    Returns:
      float32 [..., p]; may be 0 everywhere, where nothing speaks for the score.
    """
    held, pulls = (np.asarray(x, np.float32) for x in (activations, gradients))
    return np.maximum((held * pulls.mean(-2, keepdims=True)).sum(-1), 0)


def rollout(weights: np.ndarray, prefix: int, *, class_token: bool, real: np.ndarray | None = None) -> np.ndarray:
    """Attention rollout (Abnar and Zuidema 2020): the product of (W + I) / 2 over the blocks, first block rightmost.

    Args:
      weights: [l, b, n, n], what each token reads, averaged over heads.
      prefix: tokens before the patches.
      class_token: the map is what the class token has read; else what the patches have read on average.
      real: bool [b, n], tokens that are no padding.

    Returns:
      float32 [l, b, p], up to each block. With the prefix's share it sums to 1.
    """
    n = weights.shape[-1]
    total, found = np.eye(n), []
    real = np.ones(weights.shape[1:3], bool) if real is None else real
    for block in weights.astype(np.float64):
        total = (block + np.eye(n)) / 2 @ total
        if class_token:
            read = total[:, 0]
        else:
            asking = real[:, prefix:, None]
            read = (total[:, prefix:] * asking).sum(1) / asking.sum(1)
        found.append(read[:, prefix:])
    return np.stack(found).astype(np.float32)


def on_grid(values: np.ndarray, positions: Any = None) -> np.ndarray:
    """Values per patch [..., b, p] → [..., b, rows, columns], of squares or at ``positions`` int32 [b, 1, p, 2].

    Raises:
      ValueError: patches that are no square, or grids of different sizes.
    """
    if positions is None:
        side = round(values.shape[-1] ** 0.5)
        if side * side != values.shape[-1]:
            raise ValueError(f"a map needs a square number of patches, got {values.shape[-1]}")
        return values.reshape(*values.shape[:-1], side, side)
    places = np.asarray(positions)[:, 0]
    shapes = {tuple((rows.max(axis=0) + 1).tolist()) for rows in places}
    if len(shapes) > 1:
        raise ValueError(f"maps need images of one grid in a batch, got {sorted(shapes)}")
    out = np.zeros((*values.shape[:-1], *shapes.pop()), values.dtype)
    for index, rows in enumerate(places):
        real = rows[:, 0] >= 0
        out[..., index, rows[real, 0], rows[real, 1]] = values[..., index, real]
    return out


def replace_border(grid: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Border rows and columns replaced by one of their two inner neighbours, drawn by ``seed``.

    Encoders store global information in border patches (register artefacts), which would outshine everything else. In
    a grid of fewer than 8 rows or columns, where the border is most of the map, it stays.
    """
    if min(grid.shape) < 8:
        return grid.copy()
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
