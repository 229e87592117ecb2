"""Qwen2-style causal decoder with grouped queries, rotary positions and a KV cache.

Letters: b rows, n tokens, s cache slots, h query heads, k key/value heads, c head width, d width, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from pivot_jax.kernels.attention import attention
from pivot_jax.models import layers

Array = jax.Array


@dataclass(frozen=True)
class DecoderConfig:
    """Dimensions and numerics of one language model."""

    vocab_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    mlp_dim: int
    head_dim: int = 0  # 0: width / heads
    rope_theta: float = 1e6
    eps: float = 1e-6
    tied: bool = True
    qkv_bias: bool = True
    remat: str = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"decoder: {self.heads} heads are no multiple of {self.kv_heads} key/value heads")
        if not self.head_dim and self.width % self.heads:
            raise ValueError(f"decoder: width {self.width} is no multiple of its {self.heads} heads")
        if self.head_width % 2:
            raise ValueError(f"decoder: rotary positions need an even head width, not {self.head_width}")

    @property
    def head_width(self) -> int:
        return self.head_dim or self.width // self.heads


@struct.dataclass
class KVCache:
    """Keys and values of all layers. All rows write the same slot; what a row may see is in ``segments``."""

    keys: Array  # [layers, b, s, k, c]
    values: Array  # [layers, b, s, k, c]
    segments: Array  # int32 [b, s]; 1 where a token stands, 0 empty or padding
    positions: Array  # int32 [b]; rotary position of the next token
    slot: Array  # int32 []; where the next token goes


class CausalAttention(nn.Module):
    """Grouped-query attention; with a cache slice it attends to the cache, else to ``x`` itself."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Array, angles: Any, masks: dict[str, Any], past: Any = None) -> tuple[Array, Any]:
        cfg = self.config
        b, n, _ = x.shape
        c = cfg.head_width
        q = layers.Linear(cfg.heads * c, cfg.qkv_bias, name="q")(x).reshape(b, n, cfg.heads, c)
        k = layers.Linear(cfg.kv_heads * c, cfg.qkv_bias, name="k")(x).reshape(b, n, cfg.kv_heads, c)
        v = layers.Linear(cfg.kv_heads * c, cfg.qkv_bias, name="v")(x).reshape(b, n, cfg.kv_heads, c)
        q, k = layers.rotate(q, angles), layers.rotate(k, angles)
        if past is not None:
            place = (0, masks["slot"], 0, 0)
            k = jax.lax.dynamic_update_slice(past[0], k, place)
            v = jax.lax.dynamic_update_slice(past[1], v, place)
        ids = {key: value for key, value in masks.items() if key != "slot"}
        out = attention(q, k, v, causal=past is None, **ids)
        return layers.Linear(cfg.width, use_bias=False, name="out")(out.reshape(b, n, -1)), (k, v)


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), no biases."""

    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gate = layers.Linear(self.hidden, use_bias=False, name="gate")(x)
        up = layers.Linear(self.hidden, use_bias=False, name="up")(x)
        return layers.Linear(x.shape[-1], use_bias=False, name="down")(jax.nn.silu(gate) * up)


class DecoderBlock(nn.Module):
    """Pre-norm block. Returns (x, (keys, values) if ``collect.on`` else None)."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, x: Array, past: Any, angles: Any, masks: dict[str, Any], collect: layers.Collect
    ) -> tuple[Array, Any]:
        cfg = self.config
        normed = layers.RMSNorm(cfg.eps, name="norm1")(x)
        mixed, key_values = CausalAttention(cfg, name="attn")(normed, angles, masks, past)
        x = x + mixed
        x = x + GatedMLP(cfg.mlp_dim, name="mlp")(layers.RMSNorm(cfg.eps, name="norm2")(x))
        return x, key_values if collect.on else None


class Decoder(nn.Module):
    """Embedding table, blocks, closing norm, and the head matrix where it is not tied to the table."""

    config: DecoderConfig
    dtype: str = "float32"

    def setup(self) -> None:
        cfg = self.config
        table = nn.initializers.normal(0.02)
        self.embed = self.param("embed", table, (cfg.vocab_size, cfg.width))
        axes = (0, nn.broadcast, nn.broadcast, nn.broadcast)
        self.blocks = layers.Stack(DecoderBlock, (cfg,), cfg.depth, cfg.remat, cfg.scan_layers, axes)
        self.norm = layers.RMSNorm(cfg.eps)
        if not cfg.tied:
            self.head = self.param("head", table, (cfg.vocab_size, cfg.width))

    def embed_tokens(self, tokens: Array) -> Array:
        """int32 [b, n] → [b, n, d] in the compute dtype."""
        return jnp.take(self.embed, tokens, axis=0).astype(self.dtype)

    def hidden(self, x: Array, positions: Array, segments: Array, branches: Array | None = None) -> Array:
        """Embedded tokens [b, n, d] → closing-norm states [b, n, d]; ids as in ``data.batch.VLMBatch``."""
        angles = layers.rotary_angles(positions, self.config.head_width, self.config.rope_theta)
        x, _ = self.blocks(x, None, angles, _masks(segments, branches), layers.Collect(False))
        return self.norm(x)

    def prefill(self, x: Array, positions: Array, segments: Array, slots: int) -> tuple[KVCache, Array]:
        """As :meth:`hidden`, and a cache with room for ``slots`` tokens in all (prompt and answer).

        Prompts are right padded; answers go to the slots behind the longest prompt.
        """
        angles = layers.rotary_angles(positions, self.config.head_width, self.config.rope_theta)
        x, (keys, values) = self.blocks(x, None, angles, _masks(segments, None), layers.Collect(True))
        room = slots - x.shape[1]
        if room < 0:
            raise ValueError(f"a cache of {slots} slots has no room for prompts of {x.shape[1]} tokens")
        wide = [(0, 0), (0, 0), (0, room), (0, 0), (0, 0)]
        cache = KVCache(
            keys=jnp.pad(keys, wide),
            values=jnp.pad(values, wide),
            segments=jnp.pad((segments > 0).astype(jnp.int32), [(0, 0), (0, room)]),
            positions=jnp.max(jnp.where(segments > 0, positions, -1), axis=1) + 1,
            slot=jnp.asarray(x.shape[1], jnp.int32),
        )
        return cache, self.norm(x)

    def decode_step(self, cache: KVCache, x: Array) -> tuple[KVCache, Array]:
        """One more token per row: x [b, 1, d] → cache, [b, 1, d]."""
        angles = layers.rotary_angles(cache.positions[:, None], self.config.head_width, self.config.rope_theta)
        ones = jnp.ones((x.shape[0], 1), jnp.int32)
        segments = jax.lax.dynamic_update_slice(cache.segments, ones, (0, cache.slot))
        masks = {"q_segments": ones, "kv_segments": segments, "slot": cache.slot}
        past = (cache.keys, cache.values)
        x, (keys, values) = self.blocks(x, past, angles, masks, layers.Collect(True))
        grown = KVCache(keys, values, segments, cache.positions + 1, cache.slot + 1)
        return grown, self.norm(x)


def _masks(segments: Array, branches: Array | None) -> dict[str, Any]:
    masks = {"q_segments": segments, "kv_segments": segments}
    if branches is not None:
        masks |= {"q_branches": branches, "kv_branches": branches}
    return masks
