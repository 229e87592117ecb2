"""Vision transformer, one module for all families of encoders; :data:`FAMILIES` says how they differ.

The part that an MLLM does not compute is separate, in ``final/``: LLaVA-style models take the features of SigLIP and
CLIP from the penultimate block. There the last block, the closing norm and the pooling head are neither computed nor
trained, and may be absent. Features of the other families come from after the last block and the closing norm.
Letters: b images, p patches, n tokens (class token, registers, patches), d width, h heads, c head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.data.processing.images import Preset
from pivot_jax.models import layers, positions, stacking
from pivot_jax.models.flops import encoder_block
from pivot_jax.models.transformer import Block, SelfAttention, attention_weights, stack
from pivot_jax.models.vision import SquareVisionConfig, Traits

Array = jax.Array

FAMILIES = {
    # SigLIP, and SigLIP2 of fixed resolution
    "siglip": Traits(("siglip", "siglip2"), class_token=False, penultimate=True, pool="attention"),
    "siglip2_naflex": Traits(
        ("siglip2_naflex",), class_token=False, penultimate=True, pool="attention", patch_input=True
    ),
    "clip": Traits(("clip",), pre_norm=True, patch_bias=False, penultimate=True),
    "dinov2": Traits(("dinov2", "dinov2_224"), layer_scale=True, registers=True, gated=True),
    "vit_mae": Traits(("mae", "vit_imagenet")),
    "vit": Traits(("sup", "vit", "moco", "vit_imagenet"), pool="dense"),  # supervised ViT, MoCo-v3
}


@dataclass(frozen=True)
class ViTConfig(SquareVisionConfig):
    """Dimensions and numerics of one vision encoder.

    Attributes:
      pos_grid: side of the position table where it differs from that of the images; the forward pass resizes the table.
      pool_head: there is SigLIP's pooling head, or ViT's pooler; other families have none.
      max_patches: p of the input arrays of a family with ``patch_input``; 0: as many as the table has. No weight
        depends on it.
      preset: how its images are resized and cropped, a key of ``images.PRESETS``.
      mean, std: of the normalisation.
    """

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
    registers: int = 0
    gated: bool = False
    pos_grid: int = 0
    max_patches: int = 0
    preset: str = "siglip"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    remat: str = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"vision family '{self.family}' is unknown; there are: {', '.join(FAMILIES)}")
        if self.traits.penultimate and self.depth < 2:
            raise ValueError(f"vision depth is {self.depth}; features come from the penultimate block, so at least 2")
        if self.width % self.heads:
            raise ValueError(f"vision width {self.width} is not a multiple of its {self.heads} heads")
        if self.image_size < self.patch_size:
            raise ValueError(f"image size {self.image_size} is smaller than a patch ({self.patch_size})")
        for name in ("registers", "gated"):
            if getattr(self, name) and not getattr(self.traits, name):
                raise ValueError(f"vision {name} is {getattr(self, name)!r}, which family '{self.family}' cannot have")

    @property
    def traits(self) -> Traits:
        return FAMILIES[self.family]

    @property
    def grid(self) -> int:
        """Patches per side (a remainder of the image is dropped, as by a strided convolution)."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of an image; of a family with ``patch_input``, the most that one has."""
        return (self.max_patches or self.pos_side**2) if self.traits.patch_input else self.grid**2

    @property
    def prefix(self) -> int:
        """Class and register tokens, which come before the patches and are no features."""
        return int(self.traits.class_token) + self.registers

    @property
    def sequence(self) -> int:
        """Tokens that the blocks compute for an image."""
        return self.patches + self.prefix

    @property
    def pos_side(self) -> int:
        """Side of the position table's grid."""
        return self.pos_grid or self.grid

    @property
    def positions(self) -> int:
        """Rows of the position table."""
        return self.pos_side**2 + int(self.traits.class_token)

    @property
    def blocks(self) -> int:
        """Blocks that the features need: those of the stack ``blocks/``."""
        return self.depth - int(self.traits.penultimate)

    @property
    def has_pool(self) -> bool:
        """Whether the pooled vector needs parameters of its own."""
        return self.pool_head and self.traits.pool != "class"

    def without_final(self) -> ViTConfig:
        """The encoder without the parameters that the features do not need."""
        return replace(self, pool_head=False)

    def resized(self, size: int) -> ViTConfig:
        """The encoder for images of ``size`` pixels, with the position table unchanged."""
        side = self.pos_side
        return replace(self, image_size=size, pos_grid=0 if size // self.patch_size == side else side)

    @property
    def has_final(self) -> bool:
        """Whether there are parameters that the features do not need: those of ``final/``."""
        return self.traits.penultimate or self.has_pool

    def module(self, dtype: str = "float32") -> ViT:
        return ViT(self, dtype)

    def example_input(self) -> tuple[Array, ...]:
        if self.traits.patch_input:
            return jnp.zeros((1, 1, self.patch_size**2 * 3)), jnp.zeros((1, 1, 2), jnp.int32)
        return (jnp.zeros((1, self.image_size, self.image_size, 3)),)

    def with_images(self, images: Mapping[str, Any], preset: Preset) -> ViTConfig:
        found = replace(self, preset=images["preset"], mean=preset.mean, std=preset.std)
        return replace(found, max_patches=images["max_patches"]) if self.traits.patch_input else found

    def flops(self, patches: float = 0, *, whole: bool = False) -> float:
        """See :meth:`vision.VisionConfig.flops`; a list of patches counts as full."""
        p, d = self.patches, self.width
        blocks = self.depth if whole else self.blocks
        pool = 0.0
        if whole and self.has_pool:
            attends = self.traits.pool == "attention"
            pool = 2 * (2 * p * d * d + 2 * d * d + 2 * d * self.mlp_dim) if attends else 2 * d * d
        block = encoder_block(p + self.prefix, d, self.mlp_dim, 3 if self.gated else 2)
        return 2 * p * 3 * self.patch_size**2 * d + blocks * block + pool


class AttentionPool(nn.Module):
    """SigLIP's pooling head: a learned query attends to all patches, then a residual MLP."""

    config: ViTConfig

    @nn.compact
    def __call__(self, x: Array, segments: Array | None = None) -> Array:
        cfg = self.config
        probe = self.param("probe", nn.initializers.lecun_normal(), (1, cfg.width))[0]
        query = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, cfg.width))
        asks = None if segments is None else jnp.ones((x.shape[0], 1), segments.dtype)
        pooled = SelfAttention(cfg.heads, name="attn")(query, x, asks, segments)
        normed = layers.LayerNorm(cfg.eps, name="ln")(pooled)
        return (pooled + layers.MLP(cfg.mlp_dim, cfg.activation, name="mlp")(normed))[:, 0]


class Final(nn.Module):
    """The part that an MLLM leaves out: last block and closing norm of penultimate families, and the pooling head."""

    config: ViTConfig

    def setup(self) -> None:
        cfg = self.config
        if cfg.traits.penultimate:
            self.block = Block(cfg.heads, cfg.mlp_dim, cfg.eps, cfg.activation)
            self.norm = layers.LayerNorm(cfg.eps)
        if cfg.has_pool and cfg.traits.pool == "attention":
            self.pool = AttentionPool(cfg)
        elif cfg.has_pool:
            self.pooler = layers.Linear(cfg.width)

    def hidden(self, x: Array, segments: Array | None) -> Array:
        return self.block(x, layers.COLLECT_NOTHING, segments)[0]

    def normed(self, x: Array) -> Array:
        return self.norm(x)

    def pooled(self, x: Array, segments: Array | None) -> Array:
        """The pooled vector of all tokens after the closing norm."""
        if self.config.traits.pool == "attention":
            return self.pool(x, segments)
        return jnp.tanh(self.pooler(x[:, 0])) if self.config.has_pool else x[:, 0]


class ViT(nn.Module):
    """Images → features.

    Images are [b, H, W, 3], uint8 or floating point already normalised; of a family with ``patch_input``, patches
    [b, p, patch*patch*3] (pixels in order row, column, colour) with ``coordinates`` [b, p, 2], the row and column of
    each patch in its image, -1 at padding. No token attends to padding, and the features of padding mean nothing.
    """

    config: ViTConfig
    dtype: str = "float32"

    def setup(self) -> None:
        cfg, normal = self.config, nn.initializers.normal(0.02)
        self.embed = layers.Linear(cfg.width, cfg.traits.patch_bias)
        self.pos_embed = self.param("pos_embed", normal, (cfg.positions, cfg.width))
        if cfg.traits.class_token:
            self.class_token = self.param("class_token", normal, (cfg.width,))
        if cfg.registers:
            self.register_tokens = self.param("register_tokens", normal, (cfg.registers, cfg.width))
        if cfg.traits.pre_norm:
            self.pre_norm = layers.LayerNorm(cfg.eps)
        self.blocks = stack(cfg, cfg.blocks, gated=cfg.gated, layer_scale=cfg.traits.layer_scale)
        if not cfg.traits.penultimate:
            self.norm = layers.LayerNorm(cfg.eps)
        if cfg.has_final:
            self.final = Final(cfg)

    def embed_patches(self, images: Array, coordinates: Array | None = None) -> Array:
        """All tokens before the first block: [b, n, d]."""
        x = self.embed(self._patches(images, coordinates))
        x = x + self._positions(coordinates).astype(x.dtype)
        cfg, front = self.config, []
        if cfg.traits.class_token:
            front.append((self.class_token + self.pos_embed[0])[None])
        if cfg.registers:
            front.append(self.register_tokens)  # they have no position
        if front:
            tokens = jnp.concatenate(front).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape)), x], axis=1)
        return self.pre_norm(x) if cfg.traits.pre_norm else x

    def _patches(self, images: Array, coordinates: Array | None) -> Array:
        cfg = self.config
        if cfg.traits.patch_input:
            wanted = cfg.patch_size**2 * 3
            found = None if coordinates is None else coordinates.shape
            if images.ndim != 3 or images.shape[2] != wanted or found is None or found[:2] != images.shape[:2]:
                raise ValueError(f"encoder takes patches [b, p, {wanted}] and coordinates; got {images.shape}, {found}")
            pixels = images.reshape(*images.shape[:2], -1, 3)
            return layers.normalise(pixels, cfg.mean, cfg.std, jnp.dtype(self.dtype)).reshape(images.shape)
        if images.shape[1:] != (cfg.image_size, cfg.image_size, 3):
            raise ValueError(f"encoder takes {cfg.image_size}x{cfg.image_size} RGB images; got {images.shape[1:]}")
        images = layers.normalise(images, cfg.mean, cfg.std, jnp.dtype(self.dtype))
        side = cfg.grid * cfg.patch_size
        return layers.patchify(images[:, :side, :side], cfg.patch_size)

    def _positions(self, coordinates: Array | None) -> Array:
        cfg = self.config
        table = self.pos_embed[int(cfg.traits.class_token) :]
        if cfg.traits.patch_input and coordinates is not None:
            return positions.at_coordinates(table, cfg.pos_side, coordinates)
        # DINOv2's models with registers were published with an antialiased resize, those without with a plain one
        return positions.resize(table, cfg.pos_side, cfg.grid, antialias=cfg.registers > 0)

    def _blocks(self, x: Array, coordinates: Array | None, collect: layers.Collect) -> tuple[Array, Any]:
        return self.blocks(x, collect, segments_of(coordinates))

    def _features(self, x: Array) -> Array:
        x = x if self.config.traits.penultimate else self.norm(x)
        return x[:, self.config.prefix :]

    def _last(self, x: Array, coordinates: Array | None) -> Array:
        return self.final.hidden(x, segments_of(coordinates)) if self.config.traits.penultimate else x

    def _normed(self, last: Array) -> Array:
        return self.final.normed(last) if self.config.traits.penultimate else self.norm(last)

    def _pooled(self, normed: Array, coordinates: Array | None) -> Array:
        return self.final.pooled(normed, segments_of(coordinates)) if self.config.has_final else normed[:, 0]

    def features(self, images: Array, coordinates: Array | None = None) -> Array:
        """Patch tokens for an MLLM: [b, p, d].

        As in PIVOT, those of the penultimate block without norm (SigLIP, CLIP), or of the last block after the closing
        norm (the others).
        """
        return self._features(
            self._blocks(self.embed_patches(images, coordinates), coordinates, layers.COLLECT_NOTHING)[0]
        )

    def features_with_taps(
        self, images: Array, taps: tuple[str, ...], coordinates: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """:meth:`features` and the named intermediates, patch tokens only.

        ``taps``: "embed" (input of the first block) or "blocks/i" (output of block i, 0 <= i < ``blocks`` of
        the config).
        """
        prefix = self.config.prefix
        x = self.embed_patches(images, coordinates)
        found = {"embed": x[:, prefix:]} if "embed" in taps else {}
        indices = {tap: self._tap_index(tap) for tap in taps if tap != "embed"}
        x, hidden = self._blocks(x, coordinates, layers.Collect(bool(indices)))
        found.update({tap: hidden[index][:, prefix:] for tap, index in indices.items()})
        return self._features(x), found

    def features_with_offsets(
        self, images: Array, offsets: Array, coordinates: Array | None = None
    ) -> tuple[Array, Array]:
        """:meth:`features` with ``offsets`` added to the outputs of the blocks, and these outputs: [l, b, n, d] both.

        The gradient in an offset of 0 is the gradient in that block's output, of all tokens. One backward pass gives
        all layers; the blocks are unrolled.
        """
        x, outputs, segments = self.embed_patches(images, coordinates), [], segments_of(coordinates)
        for index in range(self.config.blocks):
            x = self._block(index, x, segments) + offsets[index]
            outputs.append(x)
        return self._features(x), jnp.stack(outputs)

    def attention_weights(self, images: Array, coordinates: Array | None = None) -> Array:
        """What each token reads in each block, averaged over heads: float32 [l, b, n, n], rows sum to 1."""
        x, found, segments = self.embed_patches(images, coordinates), [], segments_of(coordinates)
        for index in range(self.config.blocks):
            params, cfg = stacking.layer(self.variables["params"]["blocks"], index), self.config
            found.append(attention_weights(params, x, cfg.heads, cfg.eps, segments).mean(axis=1))
            x = self._block(index, x, segments)
        return jnp.stack(found)

    def _block(self, index: int, x: Array, segments: Array | None) -> Array:
        """Block ``index`` by itself."""
        cfg = self.config
        sizes = (cfg.heads, cfg.mlp_dim, cfg.eps, cfg.activation, cfg.gated, cfg.traits.layer_scale)
        params = stacking.layer(self.variables["params"]["blocks"], index)
        return Block(*sizes, parent=None).apply({"params": params}, x, layers.COLLECT_NOTHING, segments)[0]

    def _tap_index(self, tap: str) -> int:
        part, _, index = tap.partition("/")
        if part != "blocks" or not index.isdigit() or int(index) >= self.config.blocks:
            raise ValueError(f"tap '{tap}' is unknown; there are: embed, blocks/0 ... blocks/{self.config.blocks - 1}")
        return int(index)

    def last_tokens(self, images: Array, coordinates: Array | None = None) -> Array:
        """All tokens, class and registers too, between the last block and the closing norm: [b, n, d]."""
        x = self._blocks(self.embed_patches(images, coordinates), coordinates, layers.COLLECT_NOTHING)[0]
        return self._last(x, coordinates)

    def last_hidden(self, images: Array, coordinates: Array | None = None) -> Array:
        """Patch tokens of :meth:`last_tokens`: [b, p, d]; needs ``final`` parameters."""
        return self.last_tokens(images, coordinates)[:, self.config.prefix :]

    def normed(self, images: Array, coordinates: Array | None = None) -> Array:
        """All tokens after the closing norm: [b, n, d]; needs ``final`` parameters."""
        return self._normed(self.last_tokens(images, coordinates))

    def pooled(self, images: Array, coordinates: Array | None = None) -> Array:
        """One vector per image: [b, d]; needs ``final`` parameters.

        Raises:
          ValueError: a SigLIP without its pooling head, which has no such vector.
        """
        cfg = self.config
        if cfg.traits.pool == "attention" and not cfg.has_pool:
            raise ValueError("this encoder has no pooling head (pool_head=False), so no vector of the whole image")
        return self._pooled(self.normed(images, coordinates), coordinates)

    def whole(self, images: Array, coordinates: Array | None = None) -> Array:
        """Runs every part once, so that ``init`` creates all parameters: a scalar."""
        pooled = self.config.has_pool or self.config.traits.pool != "attention"
        return (self.pooled if pooled else self.normed)(images, coordinates).sum()


def segments_of(coordinates: Array | None) -> Array | None:
    """Attention segments [b, p] of patches: 1, and 0 at padding; None without coordinates."""
    return None if coordinates is None else (coordinates[..., 0] >= 0).astype(jnp.int32)
