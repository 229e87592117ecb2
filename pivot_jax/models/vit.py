"""Vision transformer of the SigLIP family, and SigLIP's text tower from the same blocks.

The last block is held apart from the others (``final/``), because a LLaVA-style model takes its features from
the penultimate block: there the last block is neither computed nor trained, and may be absent.
Letters: b images, p patches, d width, h heads, c head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.kernels.attention import attention
from pivot_jax.models import layers

Array = jax.Array


@dataclass(frozen=True)
class ViTConfig:
    """Dimensions and numerics of one vision encoder."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    family: str = "siglip"
    eps: float = 1e-6
    activation: str = "gelu_tanh"
    pool_head: bool = True
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    remat: str = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        if self.depth < 2:
            raise ValueError(f"vision depth is {self.depth}; features come from the penultimate block, so at least 2")
        if self.width % self.heads:
            raise ValueError(f"vision width {self.width} is no multiple of its {self.heads} heads")
        if self.image_size < self.patch_size:
            raise ValueError(f"image size {self.image_size} is smaller than a patch ({self.patch_size})")

    @property
    def grid(self) -> int:
        """Patches per side (a remainder of the image is cut off, as a strided convolution does)."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2


@dataclass(frozen=True)
class TextConfig:
    """Text tower of stage 0; ``output`` is the width of the shared space."""

    vocab_size: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    max_length: int
    output: int
    eps: float = 1e-6
    activation: str = "gelu_tanh"
    remat: str = "none"
    scan_layers: bool = True


class SelfAttention(nn.Module):
    """Full multi-head self-attention with biases."""

    heads: int

    @nn.compact
    def __call__(self, x: Array, keys: Array | None = None) -> Array:
        b, n, d = x.shape
        keys = x if keys is None else keys
        q = layers.Linear(d, name="q")(x).reshape(b, n, self.heads, -1)
        k = layers.Linear(d, name="k")(keys).reshape(b, keys.shape[1], self.heads, -1)
        v = layers.Linear(d, name="v")(keys).reshape(b, keys.shape[1], self.heads, -1)
        out = attention(q, k, v, causal=False)
        return layers.Linear(d, name="out")(out.reshape(b, n, d))


class Block(nn.Module):
    """Pre-norm transformer block. Returns (x, x if ``collect.on`` else None) for use under a scan."""

    heads: int
    mlp_dim: int
    eps: float
    activation: str

    @nn.compact
    def __call__(self, x: Array, collect: layers.Collect = layers.COLLECT_NOTHING) -> tuple[Array, Array | None]:
        x = x + SelfAttention(self.heads, name="attn")(layers.LayerNorm(self.eps, name="ln1")(x))
        x = x + layers.MLP(self.mlp_dim, self.activation, name="mlp")(layers.LayerNorm(self.eps, name="ln2")(x))
        return x, x if collect.on else None


def _blocks(cfg: ViTConfig | TextConfig, length: int, name: str | None = None) -> layers.Stack:
    arguments = (cfg.heads, cfg.mlp_dim, cfg.eps, cfg.activation)
    return layers.Stack(Block, arguments, length, cfg.remat, cfg.scan_layers, (nn.broadcast,), name=name)


class AttentionPool(nn.Module):
    """SigLIP's pooling head: a learned query attends to all patches, then a residual MLP."""

    config: ViTConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg = self.config
        probe = self.param("probe", nn.initializers.lecun_normal(), (1, cfg.width))[0]
        query = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, cfg.width))
        pooled = SelfAttention(cfg.heads, name="attn")(query, x)
        normed = layers.LayerNorm(cfg.eps, name="ln")(pooled)
        return (pooled + layers.MLP(cfg.mlp_dim, cfg.activation, name="mlp")(normed))[:, 0]


class Final(nn.Module):
    """What a LLaVA-style model leaves out: the last block, the closing norm and the pooling head."""

    config: ViTConfig

    def setup(self) -> None:
        cfg = self.config
        self.block = Block(cfg.heads, cfg.mlp_dim, cfg.eps, cfg.activation)
        self.norm = layers.LayerNorm(cfg.eps)
        if cfg.pool_head:
            self.pool = AttentionPool(cfg)

    def hidden(self, x: Array) -> Array:
        return self.block(x)[0]

    def pooled(self, x: Array) -> Array:
        return self.pool(self.norm(self.block(x)[0]))


class ViT(nn.Module):
    """Images [b, H, W, 3] (uint8, or floating point already normalised) → features."""

    config: ViTConfig
    dtype: str = "float32"

    def setup(self) -> None:
        cfg = self.config
        self.embed = layers.Linear(cfg.width)
        self.pos_embed = self.param("pos_embed", nn.initializers.normal(0.02), (cfg.patches, cfg.width))
        self.blocks = _blocks(cfg, cfg.depth - 1)
        self.final = Final(cfg)

    def embed_patches(self, images: Array) -> Array:
        cfg = self.config
        if images.shape[1:] != (cfg.image_size, cfg.image_size, 3):
            raise ValueError(f"encoder takes {cfg.image_size}x{cfg.image_size} RGB images; got {images.shape[1:]}")
        images = layers.normalise(images, cfg.mean, cfg.std, jnp.dtype(self.dtype))
        side = cfg.grid * cfg.patch_size
        patches = layers.patchify(images[:, :side, :side], cfg.patch_size)
        return self.embed(patches) + self.pos_embed.astype(patches.dtype)

    def features(self, images: Array) -> Array:
        """Output of the penultimate block, no closing norm: [b, p, d] (PIVOT's visual features)."""
        return self.blocks(self.embed_patches(images), layers.COLLECT_NOTHING)[0]

    def features_with_taps(self, images: Array, taps: tuple[str, ...]) -> tuple[Array, dict[str, Array]]:
        """:meth:`features` and the named intermediates.

        ``taps``: "embed" (patch and position embeddings) or "blocks/i" (output of block i, 0 <= i < depth - 1).
        """
        x = self.embed_patches(images)
        found = {"embed": x} if "embed" in taps else {}
        indices = {tap: self._tap_index(tap) for tap in taps if tap != "embed"}
        x, hidden = self.blocks(x, layers.Collect(bool(indices)))
        found.update({tap: hidden[index] for tap, index in indices.items()})
        return x, found

    def _tap_index(self, tap: str) -> int:
        room, _, index = tap.partition("/")
        if room != "blocks" or not index.isdigit() or int(index) >= self.config.depth - 1:
            raise ValueError(f"tap '{tap}' is unknown; there are: embed, blocks/0 ... blocks/{self.config.depth - 2}")
        return int(index)

    def touch_all(self, images: Array) -> Array:
        """Runs every part once, so that ``init`` creates all parameters."""
        return self.pooled(images) if self.config.pool_head else self.last_hidden(images)

    def last_hidden(self, images: Array) -> Array:
        """Output of the last block before the closing norm: [b, p, d]; needs ``final`` parameters."""
        return self.final.hidden(self.features(images))

    def pooled(self, images: Array) -> Array:
        """One vector per image through the pooling head: [b, d]; needs ``final`` parameters."""
        return self.final.pooled(self.features(images))


class TextTower(nn.Module):
    """SigLIP's text encoder: tokens [b, n] padded to ``max_length`` → [b, output], taken at the last place.

    SigLIP pads to a fixed length and does not mask the padding; so does this.
    """

    config: TextConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        cfg = self.config
        if tokens.shape[1] != cfg.max_length:
            raise ValueError(f"text tower takes {cfg.max_length} tokens; got {tokens.shape[1]}")
        table = self.param("embed", nn.initializers.normal(0.02), (cfg.vocab_size, cfg.width))
        places = self.param("pos_embed", nn.initializers.normal(0.02), (cfg.max_length, cfg.width))
        x = (table[tokens] + places).astype(self.dtype)
        x, _ = _blocks(cfg, cfg.depth, name="blocks")(x, layers.COLLECT_NOTHING)
        return layers.Linear(cfg.output, name="head")(layers.LayerNorm(cfg.eps, name="norm")(x)[:, -1])


class SigLIP(nn.Module):
    """Image and text towers of stage 0 with the learned logit scale and bias (Zhai et al. 2023)."""

    vision_config: ViTConfig
    text_config: TextConfig
    dtype: str = "float32"

    def setup(self) -> None:
        self.vision = ViT(self.vision_config, self.dtype)
        self.text = TextTower(self.text_config, self.dtype)
        # exp(scale) starts at 10 and the bias at -10, so that training starts near the prior of one match in many
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.302585), ())
        self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def __call__(self, images: Array, tokens: Array) -> tuple[Array, Array, Array, Array]:
        """Unit-norm float32 image [b, d] and text [b, d] vectors, logit scale (exponentiated) and bias."""
        image, text = (_unit(x.astype(jnp.float32)) for x in (self.vision.pooled(images), self.text(tokens)))
        return image, text, jnp.exp(self.logit_scale), self.logit_bias


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
