"""The one attention function of the project, and its backends.

Letters: b rows, n queries, m keys, h query heads, k key/value heads, g = h / k, c head width.

:mod:`pivot_jax.kernels.mask` says which keys a query attends to. A fully masked query returns zeros, and its gradients
are zero. No family of models here caps its scores or slides a window: reading a checkpoint that would raises an error.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from pivot_jax.kernels import attention_xla, dispatch, shards
from pivot_jax.kernels.gpu.cudnn import attention_cudnn
from pivot_jax.kernels.gpu.triton import attention_triton
from pivot_jax.kernels.mask import NO_IDS, Ids, visible
from pivot_jax.kernels.tiles import case_of
from pivot_jax.kernels.tpu.attention import attention_tpu

Array = jax.Array


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    ids: Ids = NO_IDS,
    scale: float | None = None,
    backend: str = "auto",
) -> Array:
    """Masked multi-head attention, softmax(scale * q k^T + mask) v.

    Args:
      q: [b, n, h, c]. k, v: [b, m, k, c] with h a multiple of k (grouped queries).
      causal: a query attends only to keys up to its own position in the row; needs n == m.
      ids: segments and branches of queries and keys; see :class:`pivot_jax.kernels.mask.Ids`.
      scale: default c ** -0.5.
      backend: a name of :data:`BACKENDS`, or "auto": the fastest in ``choices.json``, else that of :data:`AUTO`.

    Returns:
      [b, n, h, c] in q's dtype. Softmax and accumulation are float32.

    Raises:
      ValueError: shapes that do not fit, an unknown backend, or one that does not support these types or shapes.
    """
    _check(q, k, v, causal, ids)
    name = _automatic(q, k, ids, causal) if backend == "auto" else backend
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    compute = functools.partial(dispatch.named("attention", name, BACKENDS), causal=causal, scale=float(scale))
    return _per_shard(compute, q, k, v, ids)


def reference(q: Array, k: Array, v: Array, ids: Ids, *, causal: bool, scale: float) -> Array:
    """Plain dense attention in float32 (float64 where inputs are). The other backends are tested against it."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    b, n, h, c = q.shape
    m, kv = k.shape[1], k.shape[2]
    grouped = q.reshape(b, n, kv, h // kv, c).astype(wide)
    scores = jnp.einsum("bnkgc,bmkc->bkgnm", grouped, k.astype(wide)) * scale
    mask = visible(ids, range(n), range(m), causal)
    if mask is None:
        weights = jax.nn.softmax(scores, axis=-1)
    else:
        mask = mask.reshape(-1, 1, 1, n, m)
        weights = jax.nn.softmax(jnp.where(mask, scores, attention_xla.MASKED), axis=-1)
        weights = jnp.where(mask, weights, 0.0)
    out = jnp.einsum("bkgnm,bmkc->bnkgc", weights, v.astype(wide))
    return out.reshape(b, n, h, c).astype(q.dtype)


def _pallas_gpu(q: Array, k: Array, v: Array, ids: Ids, *, causal: bool, scale: float) -> Array:
    from pivot_jax.kernels.gpu.mosaic import attention_gpu  # here: it imports a compiler that only GPUs need

    return attention_gpu(q, k, v, ids, causal=causal, scale=scale)


BACKENDS = {
    "xla": attention_xla.blockwise,
    "pallas_tpu": attention_tpu,
    "pallas_gpu": _pallas_gpu,
    "pallas_triton": attention_triton,
    "cudnn": attention_cudnn,
    "reference": reference,
}
AUTO = {"cpu": "xla", "gpu": "xla", "tpu": "pallas_tpu"}  # where no like case was measured


def _automatic(q: Array, k: Array, ids: Ids, causal: bool) -> str:
    case = case_of(q, k, ids, causal)
    kind, platform = dispatch.kind(), dispatch.platform()
    measured = dispatch.fastest(kind, case)
    backend = measured or AUTO[platform]
    reason = f"measured fastest on {kind} for {case}" if measured else f"the default on a {platform}"
    dispatch.log_once(f"attention backend: {backend}, {reason}")
    return backend


def _per_shard(compute: Any, q: Array, k: Array, v: Array, ids: Ids) -> Array:
    """Runs ``compute`` on each device's rows and heads where a mesh is set; without a mesh, directly."""
    split = shards.split(q.shape[0], q.shape[2], k.shape[2])
    if split.alone:
        return compute(q, k, v, ids)
    if split.repeat > 1:
        k, v = jnp.repeat(k, split.repeat, axis=2), jnp.repeat(v, split.repeat, axis=2)
    wide, narrow = P(split.rows, None, split.heads, None), P(split.rows, None)
    in_specs = (wide, wide, wide, jax.tree.map(lambda _: narrow, ids))
    return jax.shard_map(compute, in_specs=in_specs, out_specs=wide, check_vma=False)(q, k, v, ids)


def _check(q: Array, k: Array, v: Array, causal: bool, ids: Ids) -> None:
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise ValueError(f"attention needs q [b,n,h,c] and k, v [b,m,k,c]; got {q.shape}, {k.shape}, {v.shape}")
    if not q.shape[1] or not k.shape[1]:
        raise ValueError(f"attention: q {q.shape} or k {k.shape} has no tokens")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"attention: q {q.shape} and k {k.shape} differ in rows or head width")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"attention: {q.shape[2]} query heads are not a multiple of {k.shape[2]} key/value heads")
    if causal and q.shape[1] != k.shape[1]:
        raise ValueError(f"causal attention needs as many queries as keys; got {q.shape[1]} and {k.shape[1]}")
    if ids.q_branches is not None and ids.q_segments is None:
        raise ValueError("attention: branch ids need segment ids")
    for name, pair in (("segment", ids[:2]), ("branch", ids[2:])):
        if (pair[0] is None) != (pair[1] is None):
            raise ValueError(f"attention: pass {name} ids for both queries and keys, or for neither")
        for found, side in zip(pair, (q, k), strict=True):
            if found is not None and found.shape != side.shape[:2]:
                raise ValueError(f"attention: {name} ids have shape {found.shape}; expected {side.shape[:2]}")
            if found is not None and not jnp.issubdtype(found.dtype, jnp.integer):
                raise ValueError(f"attention: {name} ids are {found.dtype}; expected integers")
