"""Attention by cuDNN, through JAX's own interface to it: dense or causal rows, without ids."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.kernels.dispatch import platform
from pivot_jax.kernels.mask import Ids

Array = jax.Array
_WIDEST = 128
_HALF = (jnp.bfloat16, jnp.float16)


def attention_cudnn(q: Array, k: Array, v: Array, ids: Ids, *, causal: bool, scale: float) -> Array:
    """See :func:`pivot_jax.kernels.attention.attention`.

    cuDNN has no backward pass for odd lengths. Those get one token of padding, which the per-row lengths mask.

    Raises:
      ValueError: not on a GPU, or what cuDNN does not support: ids, float32, heads wider than 128 or whose width is
        not a multiple of 8.
    """
    lacks = _lacks(q, k, v, ids)
    if lacks:
        raise ValueError(f"attention backend 'cudnn' {lacks}; use 'auto', 'pallas_triton' or 'xla'")
    (b, n), m = q.shape[:2], k.shape[1]
    lengths: dict[str, Any] = {}
    if n % 2 or m % 2:
        q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
        lengths = {"query_seq_lengths": jnp.full(b, n, jnp.int32), "key_value_seq_lengths": jnp.full(b, m, jnp.int32)}
    out = jax.nn.dot_product_attention(q, k, v, is_causal=causal, scale=scale, implementation="cudnn", **lengths)
    return out[:, :n]


def _lacks(q: Array, k: Array, v: Array, ids: Ids) -> str:
    if platform() != "gpu":
        return "runs on NVIDIA GPUs only"
    if ids.kind != "none":
        return "does not support segment or branch ids"
    if q.dtype not in _HALF or {q.dtype} != {k.dtype, v.dtype}:
        return f"needs q, k and v all in bfloat16 or float16; got {q.dtype}, {k.dtype}, {v.dtype}"
    if q.shape[-1] % 8 or q.shape[-1] > _WIDEST:
        return f"needs a head width that is a multiple of 8 up to {_WIDEST}; got {q.shape[-1]}"
    return ""
