"""Vision transformer, one for all families of encoders; :data:`encoder.FAMILIES` says how they differ.

What an MLLM does not compute stands apart in ``final/``: LLaVA-style models take the features of SigLIP and CLIP from
the penultimate block, so there the last block, the closing norm and the pooling head are neither computed nor trained,
and may be absent. Features of the other families come from behind the last block and the closing norm.
Letters: b images, p patches, n tokens (class token, registers, patches), d width, h heads, c head width.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.kernels.attention import attention
from pivot_jax.kernels.mask import Ids
from pivot_jax.models import layers, positions
from pivot_jax.models.decoder import GatedMLP
from pivot_jax.models.encoder import ViTConfig

Array = jax.Array


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases; with ``keys``, attention of x to them."""

    heads: int

    @nn.compact
    def __call__(
        self, x: Array, keys: Array | None = None, segments: Array | None = None, key_segments: Array | None = None
    ) -> Array:
        b, n, d = x.shape
        keys = x if keys is None else keys
        q = layers.Linear(d, name="q")(x).reshape(b, n, self.heads, -1)
        k = layers.Linear(d, name="k")(keys).reshape(b, keys.shape[1], self.heads, -1)
        v = layers.Linear(d, name="v")(keys).reshape(b, keys.shape[1], self.heads, -1)
        out = attention(q, k, v, causal=False, ids=Ids(segments, key_segments))
        return layers.Linear(d, name="out")(out.reshape(b, n, d))


class Block(nn.Module):
    """Pre-norm transformer block. Returns (x, x if ``collect.on`` else None) for use under a scan."""

    heads: int
    mlp_dim: int
    eps: float
    activation: str
    gated: bool = False
    layer_scale: bool = False

    @nn.compact
    def __call__(
        self, x: Array, collect: layers.Collect = layers.COLLECT_NOTHING, segments: Array | None = None
    ) -> tuple[Array, Array | None]:
        attended = SelfAttention(self.heads, name="attn")(
            layers.LayerNorm(self.eps, name="ln1")(x), segments=segments, key_segments=segments
        )
        x = x + self._scaled(attended, "layer_scale1")
        mlp: Any = (
            GatedMLP(self.mlp_dim, True, name="mlp")
            if self.gated
            else layers.MLP(self.mlp_dim, self.activation, name="mlp")
        )
        x = x + self._scaled(mlp(layers.LayerNorm(self.eps, name="ln2")(x)), "layer_scale2")
        return x, x if collect.on else None

    def _scaled(self, x: Array, name: str) -> Array:
        return x * self.param(name, nn.initializers.ones, (x.shape[-1],)).astype(x.dtype) if self.layer_scale else x


def stack(cfg: Any, length: int, name: str | None = None, gated: bool = False, layer_scale: bool = False):
    """``length`` blocks; call with (x, collect, segments)."""
    arguments = (cfg.heads, cfg.mlp_dim, cfg.eps, cfg.activation, gated, layer_scale)
    return layers.Stack(Block, arguments, length, cfg.remat, cfg.scan_layers, (nn.broadcast, nn.broadcast), name=name)


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
    """What an MLLM leaves out: last block and closing norm of the penultimate families, and the pooling head."""

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
        """Of all tokens behind the closing norm."""
        if self.config.traits.pool == "attention":
            return self.pool(x, segments)
        return jnp.tanh(self.pooler(x[:, 0])) if self.config.has_pool else x[:, 0]


class ViT(nn.Module):
    """Images → features.

    Images are [b, H, W, 3], uint8 or floating point already normalised; of a family with ``patch_input``, patches
    [b, p, patch*patch*3] (pixels in order row, column, colour) with ``places`` [b, p, 2], the row and column of each
    patch in its picture, -1 at padding. Padding is seen by nothing, and its features mean nothing.
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

    def embed_patches(self, images: Array, places: Array | None = None) -> Array:
        """All tokens in front of the first block: [b, n, d]."""
        x = self.embed(self._patches(images, places))
        x = x + self._positions(places).astype(x.dtype)
        cfg, front = self.config, []
        if cfg.traits.class_token:
            front.append((self.class_token + self.pos_embed[0])[None])
        if cfg.registers:
            front.append(self.register_tokens)  # they have no position
        if front:
            tokens = jnp.concatenate(front).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape)), x], axis=1)
        return self.pre_norm(x) if cfg.traits.pre_norm else x

    def _patches(self, images: Array, places: Array | None) -> Array:
        cfg = self.config
        if cfg.traits.patch_input:
            wanted = cfg.patch_size**2 * 3
            if places is None or images.ndim != 3 or images.shape[2] != wanted or places.shape[:2] != images.shape[:2]:
                given = None if places is None else places.shape
                raise ValueError(f"encoder takes patches [b, p, {wanted}] and places; got {images.shape}, {given}")
            pixels = images.reshape(*images.shape[:2], -1, 3)
            return layers.normalise(pixels, cfg.mean, cfg.std, jnp.dtype(self.dtype)).reshape(images.shape)
        if images.shape[1:] != (cfg.image_size, cfg.image_size, 3):
            raise ValueError(f"encoder takes {cfg.image_size}x{cfg.image_size} RGB images; got {images.shape[1:]}")
        images = layers.normalise(images, cfg.mean, cfg.std, jnp.dtype(self.dtype))
        side = cfg.grid * cfg.patch_size
        return layers.patchify(images[:, :side, :side], cfg.patch_size)

    def _positions(self, places: Array | None) -> Array:
        cfg = self.config
        table = self.pos_embed[int(cfg.traits.class_token) :]
        if cfg.traits.patch_input and places is not None:
            return positions.at_places(table, cfg.pos_side, places)
        # DINOv2's models with registers were published with an antialiased resize, those without with a plain one
        return positions.resize(table, cfg.pos_side, cfg.grid, antialias=cfg.registers > 0)

    def _blocks(self, x: Array, places: Array | None, collect: layers.Collect) -> tuple[Array, Any]:
        return self.blocks(x, collect, segments_of(places))

    def _features(self, x: Array) -> Array:
        x = x if self.config.traits.penultimate else self.norm(x)
        return x[:, self.config.prefix :]

    def _last(self, x: Array, places: Array | None) -> Array:
        return self.final.hidden(x, segments_of(places)) if self.config.traits.penultimate else x

    def _normed(self, last: Array) -> Array:
        return self.final.normed(last) if self.config.traits.penultimate else self.norm(last)

    def _pooled(self, normed: Array, places: Array | None) -> Array:
        return self.final.pooled(normed, segments_of(places)) if self.config.has_final else normed[:, 0]

    def features(self, images: Array, places: Array | None = None) -> Array:
        """Patch tokens that an MLLM sees: [b, p, d]. PIVOT's: the penultimate block's without norm (SigLIP, CLIP), or
        the last block's behind the closing norm (the others)."""
        return self._features(self._blocks(self.embed_patches(images, places), places, layers.COLLECT_NOTHING)[0])

    def features_with_taps(
        self, images: Array, taps: tuple[str, ...], places: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """:meth:`features` and the named intermediates, patch tokens only.

        ``taps``: "embed" (what goes into the first block) or "blocks/i" (output of block i, 0 <= i < ``blocks`` of
        the config).
        """
        prefix = self.config.prefix
        x = self.embed_patches(images, places)
        found = {"embed": x[:, prefix:]} if "embed" in taps else {}
        indices = {tap: self._tap_index(tap) for tap in taps if tap != "embed"}
        x, hidden = self._blocks(x, places, layers.Collect(bool(indices)))
        found.update({tap: hidden[index][:, prefix:] for tap, index in indices.items()})
        return self._features(x), found

    def _tap_index(self, tap: str) -> int:
        room, _, index = tap.partition("/")
        if room != "blocks" or not index.isdigit() or int(index) >= self.config.blocks:
            raise ValueError(f"tap '{tap}' is unknown; there are: embed, blocks/0 ... blocks/{self.config.blocks - 1}")
        return int(index)

    def last_tokens(self, images: Array, places: Array | None = None) -> Array:
        """All tokens, class and registers too, behind the last block and in front of the closing norm: [b, n, d]."""
        x = self._blocks(self.embed_patches(images, places), places, layers.COLLECT_NOTHING)[0]
        return self._last(x, places)

    def last_hidden(self, images: Array, places: Array | None = None) -> Array:
        """Patch tokens of :meth:`last_tokens`: [b, p, d]; needs ``final`` parameters."""
        return self.last_tokens(images, places)[:, self.config.prefix :]

    def normed(self, images: Array, places: Array | None = None) -> Array:
        """All tokens behind the closing norm: [b, n, d]; needs ``final`` parameters."""
        return self._normed(self.last_tokens(images, places))

    def pooled(self, images: Array, places: Array | None = None) -> Array:
        """One vector per image: [b, d]; needs ``final`` parameters.

        Raises:
          ValueError: a SigLIP without its pooling head, which has no such vector.
        """
        cfg = self.config
        if cfg.traits.pool == "attention" and not cfg.has_pool:
            raise ValueError("this encoder has no pooling head (pool_head=False), so no vector of the whole image")
        return self._pooled(self.normed(images, places), places)

    def whole(self, images: Array, places: Array | None = None) -> Array:
        """Runs every part once, so that ``init`` creates all parameters: a scalar."""
        pooled = self.config.has_pool or self.config.traits.pool != "attention"
        return (self.pooled if pooled else self.normed)(images, places).sum()


def segments_of(places: Array | None) -> Array | None:
    """Attention segments [b, p] of patches with places: 1, and 0 at padding."""
    return None if places is None else (places[..., 0] >= 0).astype(jnp.int32)


def blank(cfg: Any) -> tuple[Array, ...]:
    """One input of an encoder's shapes, for ``init``: (images,) or (patches, places)."""
    if cfg.traits.patch_input:
        return jnp.zeros((1, 1, cfg.patch_size**2 * 3)), jnp.zeros((1, 1, 2), jnp.int32)
    return (jnp.zeros((1, cfg.image_size, cfg.image_size, 3)),)
