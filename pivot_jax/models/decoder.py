"""Causal decoder with grouped queries and rotary positions: Qwen2, Qwen3 and Llama by its settings.

Letters: b rows, n tokens, p and s cache slots, h query heads, k key/value heads,
c head width, d width, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from pivot_jax.kernels.attention import attention
from pivot_jax.kernels.decode import Part, decode_attention, lay_out
from pivot_jax.kernels.mask import Ids
from pivot_jax.models import layers, rotary
from pivot_jax.models.rotary import RopeScaling

Array = jax.Array


@dataclass(frozen=True)
class DecoderConfig:
    """Dimensions and numerics of one language model.

    The family follows from the settings: ``qk_norm`` is Qwen3, ``qkv_bias`` Qwen2, neither Llama.
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    mlp_dim: int
    head_dim: int = 0  # 0: width / heads
    max_positions: int = 32768  # max_position_embeddings of an export; nothing is computed from it
    rope_theta: float = 1e6
    eps: float = 1e-6
    tied: bool = True
    padding_idx: int = -1  # token whose embedding gets no gradient from its occurrences; -1: none
    qkv_bias: bool = True
    qk_norm: bool = False  # RMS norm of every head's queries and keys, before the rotation
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    mrope_section: tuple[int, ...] = ()  # M-RoPE: pairs of a head that rotate by time, row and column; () is one axis
    remat: str = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads are no multiple of {self.kv_heads} key/value heads")
        if not self.head_dim and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of its {self.heads} heads")
        if self.head_width % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.head_width}")
        if self.mrope_section and (len(self.mrope_section), sum(self.mrope_section)) != (3, self.head_width // 2):
            raise ValueError(
                f"mrope_section {self.mrope_section} is not three numbers with the sum "
                f"{self.head_width // 2}, half the head width"
            )

    @property
    def head_width(self) -> int:
        return self.head_dim or self.width // self.heads

    def text_positions(self, indices: Any) -> Any:
        """Positions int32 [b, n] of text in the form of this decoder: with M-RoPE the same on all axes, [b, n, 3]."""
        return jnp.repeat(indices[..., None], 3, axis=-1) if self.mrope_section else indices

    def angles(self, positions: Array, segments: Array) -> tuple[Array, Array]:
        """cos and sin of the rotations at positions [b, n], with M-RoPE [b, n, 3]: see :func:`rotary.angles`."""
        return rotary.angles(
            positions, segments, self.head_width, self.rope_theta, self.rope_scaling, self.mrope_section
        )

    def module(self, dtype: str = "float32") -> Decoder:
        """The Linen module; its parameters are float32, ``dtype`` is that of the computation."""
        return Decoder(self, dtype)

    def flops(self, tokens: float) -> float:
        """FLOPs of the forward pass of one row of ``tokens`` tokens through the blocks (see ``models.flops``)."""
        heads = self.heads * self.head_width
        projections = self.width * (2 * heads + 2 * self.kv_heads * self.head_width)
        per_token = 2 * (projections + 3 * self.width * self.mlp_dim)
        return self.depth * (tokens * per_token + 2 * tokens * tokens * heads)

    def head_flops(self, targets: float) -> float:
        """FLOPs of the vocabulary projection of ``targets`` scored targets."""
        return 2 * targets * self.width * self.vocab_size


@struct.dataclass
class Past:
    """What one new token per row attends to in one layer: itself, and the tokens before it in two parts of a cache.

    ``own`` is written: all rows put their token's keys and values into the same slot. ``before`` is only read; its rows
    have lengths of their own. See ``kernels.decode``.
    """

    keys: Array  # own part, [b, k, s, c]
    values: Array  # [b, k, s, c]
    slot: Array  # int32 []; where the token goes, and the number of tokens before it in this part
    before: Part  # keys and values [b, k, p, c], lengths [b]


class CausalAttention(nn.Module):
    """Grouped-query attention of ``x`` to itself; or, with ``past``, of one token to the cache.

    Returns the output, and the keys and values: those of ``x`` [b, k, n, c], or the own part of ``past`` with them.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Array, past: Past | None, angles: Any, ids: Ids) -> tuple[Array, tuple[Array, Array]]:
        cfg = self.config
        b, n, _ = x.shape
        c = cfg.head_width
        q = layers.Linear(cfg.heads * c, cfg.qkv_bias, name="q")(x).reshape(b, n, cfg.heads, c)
        k = layers.Linear(cfg.kv_heads * c, cfg.qkv_bias, name="k")(x).reshape(b, n, cfg.kv_heads, c)
        v = layers.Linear(cfg.kv_heads * c, cfg.qkv_bias, name="v")(x).reshape(b, n, cfg.kv_heads, c)
        if cfg.qk_norm:
            q, k = layers.RMSNorm(cfg.eps, name="q_norm")(q), layers.RMSNorm(cfg.eps, name="k_norm")(k)
        q, k = rotary.rotate(q, angles), rotary.rotate(k, angles)
        keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)
        if past is None:
            out = attention(q, k, v, causal=True, ids=ids)
        else:
            keys, values = (
                jax.lax.dynamic_update_slice(own, lay_out(new, b, cfg.heads), (0, 0, past.slot, 0))
                for own, new in ((past.keys, keys), (past.values, values))
            )
            own = Part(keys, values, jnp.broadcast_to(past.slot + 1, b))
            out = decode_attention(q[:, 0], own, past.before)
        return layers.Linear(cfg.width, use_bias=False, name="out")(out.reshape(b, n, -1)), (keys, values)


class DecoderBlock(nn.Module):
    """Pre-norm block; with ``past`` of one new token per row.

    Returns its output, and with ``collect.cache`` the keys and values of :class:`CausalAttention`, with ``collect.on``
    the output once more.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Array, past: Any, angles: Any, ids: Ids, collect: layers.Collect) -> tuple[Array, Any]:
        cfg = self.config
        normed = layers.RMSNorm(cfg.eps, name="norm1")(x)
        mixed, key_values = CausalAttention(cfg, name="attn")(normed, past, angles, ids)
        x = x + mixed
        x = x + layers.GatedMLP(cfg.mlp_dim, name="mlp")(layers.RMSNorm(cfg.eps, name="norm2")(x))
        return x, key_values if collect.cache else x if collect.on else None


class Decoder(nn.Module):
    """Embedding table, blocks, closing norm, and the head matrix where it is not tied to the table."""

    config: DecoderConfig
    dtype: str = "float32"

    def setup(self) -> None:
        cfg = self.config
        table = nn.initializers.normal(0.02)
        self.embed = self.param("embed", table, (cfg.vocab_size, cfg.width))
        axes = (nn.broadcast,) * 4  # all layers share the angles and ids
        self.blocks = layers.Stack(DecoderBlock, (cfg,), cfg.depth, cfg.remat, cfg.scan_layers, axes)
        self.norm = layers.RMSNorm(cfg.eps)
        if not cfg.tied:
            self.head = self.param("head", table, (cfg.vocab_size, cfg.width))

    def embed_tokens(self, tokens: Array) -> Array:
        """int32 [b, n] → [b, n, d] in the compute dtype."""
        found = jnp.take(self.embed, tokens, axis=0).astype(self.dtype)
        if self.config.padding_idx < 0:
            return found
        return jnp.where((tokens == self.config.padding_idx)[..., None], jax.lax.stop_gradient(found), found)

    def hidden(self, x: Array, positions: Array, segments: Array, branches: Array | None = None) -> Array:
        """Embedded tokens [b, n, d] → closing-norm states [b, n, d]; ids as in ``data.processing.batch.VLMBatch``.

        ``positions`` are int32 [b, n], with M-RoPE [b, n, 3].
        """
        angles = self.config.angles(positions, segments)
        x, _ = self.blocks(x, None, angles, Ids.same(segments, branches), layers.COLLECT_NOTHING)
        return self.norm(x)

    def layer_states(self, x: Array, positions: Array, segments: Array, branches: Array | None = None) -> Array:
        """Embedded tokens, the output of every block but the last, and closing-norm states: [layers + 1, b, n, d]."""
        angles, collect = self.config.angles(positions, segments), layers.Collect(True)
        last, states = self.blocks(x, None, angles, Ids.same(segments, branches), collect)
        return jnp.concatenate([x[None], states[:-1], self.norm(last)[None]])
