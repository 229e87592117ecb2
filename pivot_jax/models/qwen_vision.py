"""Vision towers of Qwen2-VL and Qwen2.5-VL: variable-resolution images as lists of patches, 2-D rotary positions.

An image is a padded list of patches with their coordinates in its grid (``processing.patches``). Qwen2-VL attends over
the whole image; Qwen2.5-VL within windows, and over the whole image in a few blocks. Windows and rotary angles are
computed from the coordinates. Any order of the patches is right in which the 2 x 2 of a merged token follow each other;
an order that keeps windows together lets attention kernels skip blocks.
Letters: b images, p patches, d width, h heads, c head width, i numbers of a patch (rows, columns, colours).
Source: Wang et al. 2024 (arXiv 2409.12191), Bai et al. 2025 (arXiv 2502.13923).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.data.processing.images import CLIP_MEAN, CLIP_STD, Preset
from pivot_jax.kernels.attention import attention
from pivot_jax.kernels.mask import Ids
from pivot_jax.models import layers
from pivot_jax.models.projector import ProjectorConfig
from pivot_jax.models.rotary import rotate
from pivot_jax.models.vision import Traits, VisionConfig

Array = jax.Array
FAMILIES = ("qwen2_vl", "qwen2_5_vl")
MERGE = 2  # patches per side of a merged token
FRAMES = 2  # an image is a video of two equal frames, which one patch spans
THETA = 10000.0


@dataclass(frozen=True)
class QwenVisionConfig(VisionConfig):
    """Dimensions and numerics of one tower. ``window`` (pixels) and ``full_blocks`` are Qwen2.5-VL's."""

    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    family: str = "qwen2_5_vl"
    activation: str = "silu"
    window: int = 112
    full_blocks: tuple[int, ...] = (7, 15, 23, 31)
    eps: float = 1e-6
    # Preparation of its images (``data.image``); no weight depends on it.
    max_patches: int = 0
    min_pixels: int = 56 * 56
    max_pixels: int = 12845056
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    remat: str = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"vision family '{self.family}' is unknown; there are {', '.join(FAMILIES)}")
        if self.width % self.heads or self.width // self.heads % 4:
            raise ValueError(
                f"vision width {self.width} over {self.heads} heads: 2-D rotary positions need a head width that is a "
                "multiple of 4"
            )
        if self.windowed and (self.window < 1 or self.window % (self.patch_size * MERGE)):
            raise ValueError(f"a window of {self.window} pixels is not a multiple of {MERGE} x {self.patch_size}")

    @property
    def windowed(self) -> bool:
        return self.family == "qwen2_5_vl"

    @property
    def traits(self) -> Traits:
        return Traits((self.family,), class_token=False, patch_input=True, merges=True)

    @property
    def preset(self) -> str:
        return self.family

    @property
    def blocks(self) -> int:
        """Blocks that the features need: all."""
        return self.depth

    @property
    def patches(self) -> int:
        return self.max_patches

    @property
    def tokens(self) -> int:
        """Merged tokens of the padded list."""
        return self.max_patches // MERGE**2

    def module(self, dtype: str = "float32") -> QwenVision:
        return QwenVision(self, dtype)

    def example_input(self) -> tuple[Array, Array]:
        return jnp.zeros((1, MERGE**2, self.patch_size**2 * 3)), jnp.zeros((1, MERGE**2, 2), jnp.int32)

    def with_images(self, images: Mapping[str, Any], preset: Preset) -> QwenVisionConfig:
        limits = {name: images[name] for name in ("max_patches", "min_pixels", "max_pixels")}
        return replace(self, mean=preset.mean, std=preset.std, **limits)

    def flops(self, patches: float = 0, *, whole: bool = False) -> float:
        """See :meth:`vision.VisionConfig.flops`; windows count as full ones."""
        patches, d = patches or self.patches, self.width
        window = min(patches, (self.window // self.patch_size) ** 2) if self.windowed else patches
        full = sum(not self.windowed or i in self.full_blocks for i in range(self.depth))
        attended = full * patches + (self.depth - full) * window
        products = 4 * d * d + (3 if self.windowed else 2) * d * self.mlp_dim
        return 2 * patches * (3 * self.patch_size**2 * d + self.depth * products) + 4 * patches * attended * d

    def project(self, config: ProjectorConfig, width: int) -> Merger:
        """The merger, whatever ``config`` says."""
        return Merger(self, width)

    def projector_flops(self, config: ProjectorConfig, inputs: int, width: int, patches: float = 0) -> float:
        merged = MERGE**2 * self.width
        return 2 * (patches or self.patches) / MERGE**2 * merged * (merged + width)


class PatchEmbed(nn.Module):
    """A linear map of a patch in both frames, which are equal: the sum of the frames' kernels is applied.

    ``kernel`` [frames, i, d] keeps both: a checkpoint is exported as it was imported.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (FRAMES, x.shape[-1], self.features))
        return layers.linear(x, kernel.sum(0))


def _norm(cfg: QwenVisionConfig, name: str) -> nn.Module:
    return layers.RMSNorm(cfg.eps, name=name) if cfg.windowed else layers.LayerNorm(cfg.eps, name=name)


class Block(nn.Module):
    """Pre-norm block: attention within ``windows``, or within ``whole`` images where ``full`` is not 0; then the MLP.

    ``angles``: cos and sin, float32 [b, p, 1, c]. ``whole``, ``windows``: segment ids, int32 [b, p], 0 is padding.
    """

    config: QwenVisionConfig

    @nn.compact
    def __call__(
        self, x: Array, full: Array, angles: Any, whole: Array, windows: Array, collect: layers.Collect
    ) -> tuple[Array, Array | None]:
        cfg = self.config
        segments = jnp.where(full, whole, windows)
        x = x + Attention(cfg.heads, name="attn")(_norm(cfg, "ln1")(x), angles, segments)
        normed = _norm(cfg, "ln2")(x)
        if cfg.windowed:
            x = x + layers.GatedMLP(cfg.mlp_dim, use_bias=True, name="mlp")(normed)
        else:
            x = x + layers.MLP(cfg.mlp_dim, cfg.activation, name="mlp")(normed)
        return x, x if collect.on else None


class Attention(nn.Module):
    """Multi-head self-attention with biases and rotary positions, between equal ``segments`` only."""

    heads: int

    @nn.compact
    def __call__(self, x: Array, angles: Any, segments: Array) -> Array:
        b, p, d = x.shape
        q, k, v = (layers.Linear(d, name=name)(x).reshape(b, p, self.heads, -1) for name in "qkv")
        q, k = rotate(q, angles), rotate(k, angles)
        out = attention(q, k, v, causal=False, ids=Ids.same(segments))
        return layers.Linear(d, name="out")(out.reshape(b, p, d))


class QwenVision(nn.Module):
    """Patches [b, p, i] and coordinates int32 [b, p, 2] → features [b, p, d].

    Patches are uint8, or floating point already normalised. Coordinates are (row, column) in the image's grid of
    patches, -1 at padding. Features of padding mean nothing.
    """

    config: QwenVisionConfig
    dtype: str = "float32"

    def setup(self) -> None:
        cfg = self.config
        self.embed = PatchEmbed(cfg.width)
        axes = (0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast)
        self.blocks = layers.Stack(Block, (cfg,), cfg.depth, cfg.remat, cfg.scan_layers, axes)

    def embed_patches(self, patches: Array) -> Array:
        cfg = self.config
        b, p, size = patches.shape
        if size != cfg.patch_size**2 * 3:
            raise ValueError(f"encoder takes RGB patches of {cfg.patch_size**2} pixels; got {size} numbers")
        pixels = layers.normalise(patches.reshape(b, p, -1, 3), cfg.mean, cfg.std, jnp.dtype(self.dtype))
        return self.embed(pixels.reshape(b, p, size))

    def features(self, patches: Array, coordinates: Array) -> Array:
        """Output of the last block: [b, p, d]."""
        return self._run(patches, coordinates, layers.COLLECT_NOTHING)[1]

    def whole(self, patches: Array, coordinates: Array) -> Array:
        """Runs every part once, so that ``init`` creates all parameters: a scalar."""
        return self.features(patches, coordinates).sum()

    def features_with_taps(
        self, patches: Array, taps: tuple[str, ...], coordinates: Array
    ) -> tuple[Array, dict[str, Array]]:
        """:meth:`features` and the named intermediates: "embed", or "blocks/i" (output of block i)."""
        indices = {tap: self._tap_index(tap) for tap in taps if tap != "embed"}
        embedded, x, hidden = self._run(patches, coordinates, layers.Collect(bool(indices)))
        found = {"embed": embedded} if "embed" in taps else {}
        return x, found | {tap: hidden[index] for tap, index in indices.items()}

    def _run(self, patches: Array, coordinates: Array, collect: layers.Collect) -> tuple[Array, Array, Any]:
        cfg = self.config
        embedded = self.embed_patches(patches)
        inside = cfg.window // cfg.patch_size if cfg.windowed else 0
        full = jnp.asarray([not cfg.windowed or i in cfg.full_blocks for i in range(cfg.depth)])
        angles = rotary_angles_2d(coordinates, cfg.width // cfg.heads)
        x, hidden = self.blocks(embedded, full, angles, *segments(coordinates, inside), collect)
        return embedded, x, hidden

    def _tap_index(self, tap: str) -> int:
        part, _, index = tap.partition("/")
        if part != "blocks" or not index.isdigit() or int(index) >= self.config.depth:
            raise ValueError(f"tap '{tap}' is unknown; there are: embed, blocks/0 ... blocks/{self.config.depth - 1}")
        return int(index)


def segments(coordinates: Array, window: int) -> tuple[Array, Array]:
    """Segment ids int32 [b, p] of whole images (1) and of their windows (1, 2, ...); 0 at padding.

    ``window``: patches per side of a window, 0 for none (then the second is the first).
    """
    real = coordinates[..., 0] >= 0
    whole = real.astype(jnp.int32)
    if not window:
        return whole, whole
    row, column = jnp.moveaxis(coordinates, -1, 0) // window
    across = jnp.max(column, axis=1, keepdims=True) + 1
    return whole, jnp.where(real, row * across + column + 1, 0)


def rotary_angles_2d(coordinates: Array, head_dim: int) -> tuple[Array, Array]:
    """cos and sin, float32 [b, p, 1, head_dim]: a quarter of the pairs rotates with the row, a quarter with the column.

    In the half-split layout: (rows, columns, rows, columns), each with ``head_dim / 4`` frequencies.
    """
    inverse = 1.0 / THETA ** (jnp.arange(0, head_dim // 2, 2, dtype=jnp.float32) / (head_dim // 2))
    angles = jnp.maximum(coordinates, 0).astype(jnp.float32)[..., None] * inverse  # [b, p, 2, head_dim / 4]
    flat = angles.reshape(*coordinates.shape[:2], 1, head_dim // 2)
    flat = jnp.concatenate([flat, flat], axis=-1)
    return jnp.cos(flat), jnp.sin(flat)


class Merger(nn.Module):
    """The projector of a tower: norm, 2 x 2 patches concatenated, Linear, exact GELU, Linear.

    Features [..., p, d] → image tokens [..., p / 4, width].
    """

    config: QwenVisionConfig
    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg = self.config
        x = _norm(cfg, "norm")(x)
        x = x.reshape(*x.shape[:-2], -1, MERGE**2 * cfg.width)
        x = layers.ACTIVATIONS["gelu"](layers.Linear(x.shape[-1], name="fc1")(x))
        return layers.Linear(self.width, name="fc2")(x)
