"""Causal decoder with grouped queries, rotary positions and a KV cache: Qwen2, Qwen3 and Llama by its settings.

Letters: b rows, n tokens, p and s cache slots of a prompt and of an answer, h query heads, k key/value heads,
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
    qkv_bias: bool = True
    qk_norm: bool = False  # RMS norm of every head's queries and keys, before the rotation
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    mrope_section: tuple[int, ...] = ()  # M-RoPE: pairs of a head that rotate by time, row and column; () is one axis
    remat: str = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"decoder: {self.heads} heads are no multiple of {self.kv_heads} key/value heads")
        if not self.head_dim and self.width % self.heads:
            raise ValueError(f"decoder: width {self.width} is not a multiple of its {self.heads} heads")
        if self.head_width % 2:
            raise ValueError(f"decoder: rotary positions need an even head width, not {self.head_width}")
        if self.mrope_section and (len(self.mrope_section), sum(self.mrope_section)) != (3, self.head_width // 2):
            raise ValueError(
                f"decoder: mrope_section {self.mrope_section} is not three numbers with the sum "
                f"{self.head_width // 2}, half the head width"
            )

    @property
    def head_width(self) -> int:
        return self.head_dim or self.width // self.heads

    def text_positions(self, indices: Any) -> Any:
        """Positions int32 [b, n] of text in the form of this decoder: with M-RoPE the same on all axes, [b, n, 3]."""
        return jnp.repeat(indices[..., None], 3, axis=-1) if self.mrope_section else indices

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
class KVCache:
    """Keys and values of all layers. Responses to the same prompt share its part; see ``kernels.decode``.

    B prompts with n responses each are b = B * n rows; row i answers prompt i // n. All rows write the same slot.
    """

    prompt: Part  # keys and values [layers, B, k, p, c], lengths [B]; written once
    keys: Array  # [layers, b, k, s, c]; of the answers
    values: Array  # [layers, b, k, s, c]
    positions: Array  # int32 [b]; rotary position of the next token, with M-RoPE on all its axes
    slot: Array  # int32 []; index of the next token, and the number of tokens before it


@struct.dataclass
class Past:
    """The part of a cache that a decoding layer only reads; it also writes the answers' part."""

    prompt: Part
    slot: Array


class CausalAttention(nn.Module):
    """Grouped-query attention of ``x`` to itself; or, with ``past``, of one token to the cache.

    Returns the output, and the keys and values: those of ``x`` [b, k, n, c], or the grown ones of all layers' answers.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, x: Array, answers: Any, layer: Any, past: Past | None, angles: Any, ids: Ids
    ) -> tuple[Array, tuple[Array, Array]]:
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
            index = (layer, 0, 0, past.slot, 0)
            prompts = past.prompt.lengths.shape[0]
            keys, values = (
                jax.lax.dynamic_update_slice(old, lay_out(new[None], prompts, cfg.heads), index)
                for old, new in zip(answers, (keys, values), strict=True)
            )
            own = Part(keys, values, jnp.broadcast_to(past.slot + 1, b))
            out = decode_attention(q[:, 0], own, past.prompt, layer=layer)
        return layers.Linear(cfg.width, use_bias=False, name="out")(out.reshape(b, n, -1)), (keys, values)


class DecoderBlock(nn.Module):
    """Pre-norm block. The carry is (x, answers): with ``past`` all layers' keys and values of the answers, else None.

    Returns the carry; with ``collect.cache`` also the keys and values of ``x``, with ``collect.on`` also its output.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, carry: Any, layer: Any, past: Any, angles: Any, ids: Ids, collect: layers.Collect
    ) -> tuple[Any, Any]:
        cfg = self.config
        x, answers = carry
        normed = layers.RMSNorm(cfg.eps, name="norm1")(x)
        mixed, key_values = CausalAttention(cfg, name="attn")(normed, answers, layer, past, angles, ids)
        x = x + mixed
        x = x + layers.GatedMLP(cfg.mlp_dim, name="mlp")(layers.RMSNorm(cfg.eps, name="norm2")(x))
        output = key_values if collect.cache else x if collect.on else None
        return (x, None if past is None else key_values), output


class Decoder(nn.Module):
    """Embedding table, blocks, closing norm, and the head matrix where it is not tied to the table."""

    config: DecoderConfig
    dtype: str = "float32"

    def setup(self) -> None:
        cfg = self.config
        table = nn.initializers.normal(0.02)
        self.embed = self.param("embed", table, (cfg.vocab_size, cfg.width))
        axes = (0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast)
        self.blocks = layers.Stack(DecoderBlock, (cfg,), cfg.depth, cfg.remat, cfg.scan_layers, axes)
        self.norm = layers.RMSNorm(cfg.eps)
        if not cfg.tied:
            self.head = self.param("head", table, (cfg.vocab_size, cfg.width))

    def embed_tokens(self, tokens: Array) -> Array:
        """int32 [b, n] → [b, n, d] in the compute dtype."""
        return jnp.take(self.embed, tokens, axis=0).astype(self.dtype)

    def hidden(self, x: Array, positions: Array, segments: Array, branches: Array | None = None) -> Array:
        """Embedded tokens [b, n, d] → closing-norm states [b, n, d]; ids as in ``data.processing.batch.VLMBatch``.

        ``positions`` are int32 [b, n], with M-RoPE [b, n, 3].
        """
        angles = self._angles(positions, segments)
        (x, _), _ = self.blocks((x, None), None, None, angles, Ids.same(segments, branches), layers.COLLECT_NOTHING)
        return self.norm(x)

    def layer_states(self, x: Array, positions: Array, segments: Array) -> Array:
        """Embedded tokens, the output of every block but the last, and closing-norm states: [layers + 1, b, n, d]."""
        angles, collect = self._angles(positions, segments), layers.Collect(True)
        (last, _), states = self.blocks((x, None), None, None, angles, Ids.same(segments), collect)
        return jnp.concatenate([x[None], states[:-1], self.norm(last)[None]])

    def prefill(
        self, x: Array, positions: Array, segments: Array, slots: int, responses: int = 1
    ) -> tuple[KVCache, Array]:
        """As :meth:`hidden`, and a cache for ``responses`` answers per prompt, of up to ``slots`` tokens each.

        Prompts are right padded: the tokens of segment 1 come first in a row.
        """
        cfg = self.config
        angles = self._angles(positions, segments)
        ids, collect = Ids.same(segments), layers.Collect(cache=True)
        (x, _), (keys, values) = self.blocks((x, None), None, None, angles, ids, collect)
        b = x.shape[0]
        empty = jnp.zeros((cfg.depth, b * responses, cfg.kv_heads, slots, cfg.head_width), keys.dtype)
        keys, values, empty = (lay_out(part, b, cfg.heads) for part in (keys, values, empty))
        last = jnp.max(positions, axis=-1) if cfg.mrope_section else positions
        after = jnp.max(jnp.where(segments > 0, last, -1), axis=1) + 1
        cache = KVCache(
            prompt=Part(keys, values, jnp.sum(segments > 0, axis=1, dtype=jnp.int32)),
            keys=empty,
            values=empty,
            positions=jnp.repeat(after, responses),
            slot=jnp.zeros((), jnp.int32),
        )
        return cache, self.norm(x)

    def decode_step(self, cache: KVCache, x: Array) -> tuple[KVCache, Array]:
        """One more token per row: x [b, 1, d] → cache, [b, 1, d]; at most one call per slot of the cache."""
        cfg = self.config
        here = cache.positions[:, None]
        angles = self._angles(cfg.text_positions(here), jnp.ones_like(here))
        # The answers' part is one array that passes through the layers, and each layer writes a token to it. As an
        # input and an output of each layer it would be copied whole in every step.
        carry, past = (x, (cache.keys, cache.values)), Past(cache.prompt, cache.slot)
        layer = jnp.arange(cfg.depth, dtype=jnp.int32)
        (x, (keys, values)), _ = self.blocks(carry, layer, past, angles, {}, layers.COLLECT_NOTHING)
        return KVCache(cache.prompt, keys, values, cache.positions + 1, cache.slot + 1), self.norm(x)

    def _angles(self, positions: Array, segments: Array) -> tuple[Array, Array]:
        cfg = self.config
        sections = cfg.mrope_section
        return rotary.angles(positions, segments, cfg.head_width, cfg.rope_theta, cfg.rope_scaling, sections)
