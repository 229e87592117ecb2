"""The one attention function of the project, and its backends.

Letters: b rows, n queries, m keys, h query heads, k key/value heads, g = h / k, c head width.

A query sees a key if all of these hold:

* same segment (packing), and that segment is not 0 (padding);
* the key is in branch 0 (the shared prompt) or in the query's own branch (responses that share a prompt);
* with ``causal``, the key does not stand behind the query in the row.

A query that sees nothing gives zeros, and zero gradients.

Full attention within windows (Qwen2.5-VL's vision tower) is segments without ``causal``: a window is one. No family
that we have caps its scores or slides a window; checkpoints that would are refused when they are read.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from pivot_jax.kernels import attention_xla, choices, shards
from pivot_jax.kernels.gpu.cudnn import attention_cudnn
from pivot_jax.kernels.gpu.triton import attention_triton
from pivot_jax.kernels.target import kind, log_once, named, platform
from pivot_jax.kernels.tpu.attention import attention_tpu
from pivot_jax.kernels.tuned import case_of

Array = jax.Array


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    q_segments: Array | None = None,
    kv_segments: Array | None = None,
    q_branches: Array | None = None,
    kv_branches: Array | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Array:
    """Masked multi-head attention, softmax(scale * q k^T + mask) v.

    Args:
      q: [b, n, h, c]. k, v: [b, m, k, c] with h a multiple of k (grouped queries).
      causal: order is the order in the row; needs n == m.
      q_segments, kv_segments: int32 [b, n] and [b, m], both or neither; 0 is padding, others are below 2**19.
      q_branches, kv_branches: int32 [b, n] and [b, m], both or neither, below 4096; needs segments.
      scale: default c ** -0.5.
      backend: a name of :data:`BACKENDS`, or "auto": the fastest in ``choices.json``, else that of :data:`AUTO`.

    Returns:
      [b, n, h, c] in q's dtype. Softmax and accumulation are float32.

    Raises:
      ValueError: shapes that do not fit, an unknown backend, or one that does not take these types or shapes.
    """
    _check(q, k, v, causal, q_segments, kv_segments, q_branches, kv_branches)
    masks = (q_segments, kv_segments, q_branches, kv_branches)
    name = _automatic(q, k, masks, causal) if backend == "auto" else backend
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    compute = functools.partial(named("attention", name, BACKENDS), causal=causal, scale=float(scale))
    return _per_shard(compute, q, k, v, masks)


def visible(
    causal: bool, n: int, m: int, masks: tuple[Array | None, Array | None, Array | None, Array | None]
) -> Array | None:
    """Mask [b or 1, n, m] of the rule in the module docstring; None if everything is visible."""
    q_segments, kv_segments, q_branches, kv_branches = masks
    mask = None
    if causal:
        mask = (jnp.arange(n)[:, None] >= jnp.arange(m)[None, :])[None]
    if q_segments is not None and kv_segments is not None:
        same = (q_segments[:, :, None] == kv_segments[:, None, :]) & (q_segments[:, :, None] > 0)
        mask = same if mask is None else mask & same
    if q_branches is not None and kv_branches is not None:
        own = (kv_branches[:, None, :] == 0) | (kv_branches[:, None, :] == q_branches[:, :, None])
        mask = own if mask is None else mask & own
    return mask


def reference(q: Array, k: Array, v: Array, masks: Any, *, causal: bool, scale: float) -> Array:
    """Plain dense attention in float32 (float64 where inputs are); what the other backends are tested against."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    b, n, h, c = q.shape
    m, kv = k.shape[1], k.shape[2]
    grouped = q.reshape(b, n, kv, h // kv, c).astype(wide)
    scores = jnp.einsum("bnkgc,bmkc->bkgnm", grouped, k.astype(wide)) * scale
    mask = visible(causal, n, m, masks)
    if mask is None:
        weights = jax.nn.softmax(scores, axis=-1)
    else:
        mask = mask[:, None, None]
        weights = jax.nn.softmax(jnp.where(mask, scores, attention_xla.MASKED), axis=-1)
        weights = jnp.where(mask, weights, 0.0)
    out = jnp.einsum("bkgnm,bmkc->bnkgc", weights, v.astype(wide))
    return out.reshape(b, n, h, c).astype(q.dtype)


def _pallas_gpu(q: Array, k: Array, v: Array, masks: Any, *, causal: bool, scale: float) -> Array:
    from pivot_jax.kernels.gpu.mosaic import attention_gpu  # here: it imports a compiler that only GPUs need

    return attention_gpu(q, k, v, masks, causal=causal, scale=scale)


BACKENDS = {
    "xla": attention_xla.blockwise,
    "pallas_tpu": attention_tpu,
    "pallas_gpu": _pallas_gpu,
    "pallas_triton": attention_triton,
    "cudnn": attention_cudnn,
    "reference": reference,
}
AUTO = {"cpu": "xla", "gpu": "xla", "tpu": "pallas_tpu"}  # where nothing like the case was measured


def _automatic(q: Array, k: Array, masks: Any, causal: bool) -> str:
    case = case_of(q, k, masks, causal)
    measured = choices.choose(kind(), case)
    backend = measured or AUTO[platform()]
    reason = f"measured fastest on {kind()} for {case}" if measured else f"the default on a {platform()}"
    log_once(f"attention backend: {backend}, {reason}")
    return backend


def _per_shard(compute: Any, q: Array, k: Array, v: Array, masks: Any) -> Array:
    """Runs ``compute`` on every device's own rows and heads where a mesh is set, else as it is."""
    split = shards.split(q.shape[0], q.shape[2], k.shape[2])
    if split.alone:
        return compute(q, k, v, masks)
    if split.repeat > 1:
        k, v = jnp.repeat(k, split.repeat, axis=2), jnp.repeat(v, split.repeat, axis=2)
    wide, narrow = P(split.rows, None, split.heads, None), P(split.rows, None)
    in_specs = (wide, wide, wide, tuple(None if a is None else narrow for a in masks))
    return jax.shard_map(compute, in_specs=in_specs, out_specs=wide, check_vma=False)(q, k, v, masks)


def _check(q, k, v, causal, q_segments, kv_segments, q_branches, kv_branches) -> None:
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise ValueError(f"attention needs q [b,n,h,c] and k, v [b,m,k,c]; got {q.shape}, {k.shape}, {v.shape}")
    if not q.shape[1] or not k.shape[1]:
        raise ValueError(f"attention: q {q.shape} or k {k.shape} has no tokens")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"attention: q {q.shape} and k {k.shape} differ in rows or head width")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"attention: {q.shape[2]} query heads are no multiple of {k.shape[2]} key/value heads")
    if causal and q.shape[1] != k.shape[1]:
        raise ValueError(f"causal attention needs as many queries as keys; got {q.shape[1]} and {k.shape[1]}")
    if q_branches is not None and q_segments is None:
        raise ValueError("attention: branch ids need segment ids")
    for name, pair in (("segment", (q_segments, kv_segments)), ("branch", (q_branches, kv_branches))):
        if (pair[0] is None) != (pair[1] is None):
            raise ValueError(f"attention: give {name} ids for both queries and keys, or for neither")
        for ids, side in zip(pair, (q, k), strict=True):
            if ids is not None and ids.shape != side.shape[:2]:
                raise ValueError(f"attention: {name} ids have shape {ids.shape}; expected {side.shape[:2]}")
            if ids is not None and not jnp.issubdtype(ids.dtype, jnp.integer):
                raise ValueError(f"attention: {name} ids are {ids.dtype}; expected integers")
