"""The pre-norm transformer block that all vision families of this kind and SigLIP's text tower are made of.

Letters: b images or rows, n and m tokens, d width, h heads, c head width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pivot_jax.kernels.attention import attention
from pivot_jax.kernels.mask import Ids
from pivot_jax.models import layers

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
            layers.GatedMLP(self.mlp_dim, True, name="mlp")
            if self.gated
            else layers.MLP(self.mlp_dim, self.activation, name="mlp")
        )
        x = x + self._scaled(mlp(layers.LayerNorm(self.eps, name="ln2")(x)), "layer_scale2")
        return x, x if collect.on else None

    def _scaled(self, x: Array, name: str) -> Array:
        return x * self.param(name, nn.initializers.ones, (x.shape[-1],)).astype(x.dtype) if self.layer_scale else x


def attention_weights(params: Any, x: Array, heads: int, eps: float, segments: Array | None = None) -> Array:
    """Shares [b, h, n, m] of each token m in what token n reads, in the block with these parameters: rows sum to 1.

    The attention itself never has them in memory; this is for analyses.

    Args:
      x: the block's input [b, n, d].
    """
    b, n, _ = x.shape
    normed = layers.layer_norm(x, params["ln1"]["scale"], params["ln1"]["bias"], eps)
    q, k = (
        layers.linear(normed, params["attn"][name]["kernel"], params["attn"][name]["bias"]).reshape(b, n, heads, -1)
        for name in ("q", "k")
    )
    product = partial(jnp.einsum, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST)
    scores = product("bnhc,bmhc->bhnm", q, k) * q.shape[-1] ** -0.5
    if segments is not None:
        scores = jnp.where(segments[:, None, None, :] > 0, scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)


def stack(
    cfg: Any, length: int, name: str | None = None, gated: bool = False, layer_scale: bool = False
) -> layers.Stack:
    """``length`` blocks with the dimensions of ``cfg``; call with (x, collect, segments)."""
    arguments = (cfg.heads, cfg.mlp_dim, cfg.eps, cfg.activation, gated, layer_scale)
    return layers.Stack(Block, arguments, length, cfg.remat, cfg.scan_layers, (nn.broadcast, nn.broadcast), name=name)
