"""Vision towers of Qwen2-VL and Qwen2.5-VL: pictures of any size as lists of patches, 2-D rotary positions.

A picture is a padded list of patches with their places in its grid (``processing.patches``). Qwen2-VL attends over
the whole picture; Qwen2.5-VL within windows, and over the whole picture in a few blocks. The model takes windows and
rotary angles from the places, so any order of the patches is right as long as the 2 x 2 of a merged token follow
each other; an order that keeps windows together lets attention kernels skip blocks.
Letters: b images, p patches, d width, h heads, c head width, i numbers of a patch (rows, columns, colours).
Source: Wang et al. 2024 (arXiv 2409.12191), Bai et al. 2025 (arXiv 2502.13923).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.data.processing.images import CLIP_MEAN, CLIP_STD
from pivot_jax.kernels.attention import attention
from pivot_jax.kernels.mask import Ids
from pivot_jax.models import layers
from pivot_jax.models.decoder import GatedMLP
from pivot_jax.models.encoder import Traits
from pivot_jax.models.rotary import rotate

Array = jax.Array
FAMILIES = ("qwen2_vl", "qwen2_5_vl")
MERGE = 2  # patches per side of a merged token
FRAMES = 2  # a picture is a video of two equal frames, which one patch spans
THETA = 10000.0


@dataclass(frozen=True)
class QwenVisionConfig:
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
    # How its pictures come (``data.image``); no weight depends on it.
    max_patches: int = 0
    min_pixels: int = 56 * 56
    max_pixels: int = 12845056
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    remat: str = "none"
    scan_layers: bool = True

    # nothing beside the patches, and nothing that the features leave out
    prefix = 0
    has_final = False

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"vision family '{self.family}' is unknown; there are {', '.join(FAMILIES)}")
        if self.width % self.heads or self.width // self.heads % 4:
            raise ValueError(
                f"vision width {self.width} over {self.heads} heads: 2-D rotary positions need a head width that is a "
                "multiple of 4"
            )
        if self.windowed and (self.window < 1 or self.window % (self.patch_size * MERGE)):
            raise ValueError(f"a window of {self.window} pixels is no multiple of {MERGE} x {self.patch_size}")

    @property
    def windowed(self) -> bool:
        return self.family == "qwen2_5_vl"

    @property
    def traits(self) -> Traits:
        return Traits((self.family,), class_token=False, patch_input=True)

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
    def sequence(self) -> int:
        """Tokens that the blocks compute for an image."""
        return self.max_patches

    @property
    def tokens(self) -> int:
        """Merged tokens of the padded list."""
        return self.max_patches // MERGE**2


class PatchEmbed(nn.Module):
    """A linear map of a patch in both frames, which are equal: the sum of the frames' kernels is what is applied.

    ``kernel`` [frames, i, d] keeps both, so that a checkpoint goes out as it came in.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (FRAMES, x.shape[-1], self.features))
        return layers.linear(x, kernel.sum(0))


def _norm(cfg: QwenVisionConfig, name: str) -> nn.Module:
    return layers.RMSNorm(cfg.eps, name=name) if cfg.windowed else layers.LayerNorm(cfg.eps, name=name)


class Block(nn.Module):
    """Pre-norm block: attention within ``windows``, or within ``pictures`` where ``full`` is not 0; then the MLP.

    ``angles``: cos and sin, float32 [b, p, 1, c]. ``pictures``, ``windows``: segment ids, int32 [b, p], 0 is padding.
    """

    config: QwenVisionConfig

    @nn.compact
    def __call__(
        self, x: Array, full: Array, angles: Any, pictures: Array, windows: Array, collect: layers.Collect
    ) -> tuple[Array, Array | None]:
        cfg = self.config
        segments = jnp.where(full, pictures, windows)
        x = x + Attention(cfg.heads, name="attn")(_norm(cfg, "ln1")(x), angles, segments)
        normed = _norm(cfg, "ln2")(x)
        if cfg.windowed:
            x = x + GatedMLP(cfg.mlp_dim, use_bias=True, name="mlp")(normed)
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
    """Patches [b, p, i] (uint8, or floating point already normalised) and places int32 [b, p, 2] → features [b, p, d].

    Places are (row, column) in the picture's grid of patches, -1 at padding, whose features mean nothing.
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

    def features(self, patches: Array, places: Array) -> Array:
        """Output of the last block: [b, p, d]."""
        return self._run(patches, places, layers.COLLECT_NOTHING)[1]

    def whole(self, patches: Array, places: Array) -> Array:
        """A number that every parameter has a part in, for ``init``."""
        return self.features(patches, places).sum()

    def features_with_taps(
        self, patches: Array, taps: tuple[str, ...], places: Array
    ) -> tuple[Array, dict[str, Array]]:
        """:meth:`features` and the named intermediates: "embed", or "blocks/i" (output of block i)."""
        indices = {tap: self._tap_index(tap) for tap in taps if tap != "embed"}
        embedded, x, hidden = self._run(patches, places, layers.Collect(bool(indices)))
        found = {"embed": embedded} if "embed" in taps else {}
        return x, found | {tap: hidden[index] for tap, index in indices.items()}

    def _run(self, patches: Array, places: Array, collect: layers.Collect) -> tuple[Array, Array, Any]:
        cfg = self.config
        embedded = self.embed_patches(patches)
        inside = cfg.window // cfg.patch_size if cfg.windowed else 0
        full = jnp.asarray([not cfg.windowed or i in cfg.full_blocks for i in range(cfg.depth)])
        angles = rotary_angles_2d(places, cfg.width // cfg.heads)
        x, hidden = self.blocks(embedded, full, angles, *segments(places, inside), collect)
        return embedded, x, hidden

    def _tap_index(self, tap: str) -> int:
        room, _, index = tap.partition("/")
        if room != "blocks" or not index.isdigit() or int(index) >= self.config.depth:
            raise ValueError(f"tap '{tap}' is unknown; there are: embed, blocks/0 ... blocks/{self.config.depth - 1}")
        return int(index)


def segments(places: Array, window: int) -> tuple[Array, Array]:
    """Segment ids int32 [b, p] of pictures (1) and of their windows (1, 2, ...); 0 at padding.

    ``window``: patches per side of a window, 0 for none (then the second is the first).
    """
    real = places[..., 0] >= 0
    pictures = real.astype(jnp.int32)
    if not window:
        return pictures, pictures
    row, column = jnp.moveaxis(places, -1, 0) // window
    across = jnp.max(column, axis=1, keepdims=True) + 1
    return pictures, jnp.where(real, row * across + column + 1, 0)


def rotary_angles_2d(places: Array, head_dim: int) -> tuple[Array, Array]:
    """cos and sin, float32 [b, p, 1, head_dim]: a quarter of the pairs turns with the row, a quarter with the column.

    In the half-split layout: (rows, columns, rows, columns), each with ``head_dim / 4`` frequencies.
    """
    inverse = 1.0 / THETA ** (jnp.arange(0, head_dim // 2, 2, dtype=jnp.float32) / (head_dim // 2))
    angles = jnp.maximum(places, 0).astype(jnp.float32)[..., None] * inverse  # [b, p, 2, head_dim / 4]
    flat = angles.reshape(*places.shape[:2], 1, head_dim // 2)
    flat = jnp.concatenate([flat, flat], axis=-1)
    return jnp.cos(flat), jnp.sin(flat)


class Merger(nn.Module):
    """The projector of a tower: norm, 2 x 2 patches side by side, Linear, exact GELU, Linear.

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


def blank(cfg: QwenVisionConfig) -> tuple[Array, Array]:
    """One input of the right shapes, for ``init``: patches and places."""
    return jnp.zeros((1, MERGE**2, cfg.patch_size**2 * 3)), jnp.zeros((1, MERGE**2, 2), jnp.int32)
