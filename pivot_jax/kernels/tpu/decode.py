"""Decode attention on TPUs: one Pallas kernel for Mosaic, run on each part of the cache.

A grid step holds the queries of one row of the cache, for all heads, and one block of its keys. The lengths are
prefetched scalars: after a row's length the index map stays at the row's last block, which is loaded already. Such a
step fetches nothing and computes nothing. A block in which the length ends is masked; the blocks before it are not.

Reading the cache bounds decoding, so blocks are measured in bytes: large enough to hide the cost of a grid step.
Letters as in :mod:`pivot_jax.kernels.decode`; here r rows of the cache and m queries of each row and key/value head.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pivot_jax.kernels.dispatch import platform
from pivot_jax.kernels.tpu.tile import LANES, MASKED, compiler_params

Array = jax.Array
_BLOCK_BYTES = 1 << 19  # keys and values of a block
_NT = (((2,), (2,)), ((0,), (0,)))
_NN = (((2,), (1,)), ((0,), (0,)))


def attend_tpu(
    q: Array,
    keys: Array,
    values: Array,
    lengths: Array,
    *,
    scale: float,
    block: int = 0,
    interpret: bool | None = None,
) -> tuple[Array, Array]:
    """Attention of q [r, k, m, c] to one part of a cache, keys and values [r, k, s, c], lengths [r].

    Args:
      block: keys of a grid step, a multiple of 128; 0: :func:`block_size`.
      interpret: run the kernel in JAX's interpreter, which is slow but exact; default: on CPUs.

    Returns:
      float32 [r, k, m, c] and log-sum-exp [r, k, m]; 0 and :data:`MASKED` where the length is 0.

    Raises:
      ValueError: on a GPU.
    """
    target = platform()
    if target == "gpu":
        raise ValueError("decode attention backend 'pallas_tpu' does not run on GPUs; use 'auto'")
    r, kv, m, c = q.shape
    s = keys.shape[2]
    block = min(block or block_size(kv, c, keys.dtype.itemsize), s)

    def keys_at(row, j, lengths):
        return row, 0, jnp.minimum(j, jnp.maximum(lengths[row] - 1, 0) // block), 0

    queries = lambda width: pl.BlockSpec((None, kv, m, width), lambda row, j, *_: (row, 0, 0, 0))  # noqa: E731
    part = pl.BlockSpec((None, kv, block, c), keys_at)
    column = pltpu.VMEM((kv, m, 1), jnp.float32)
    out, lse = pl.pallas_call(
        functools.partial(_kernel, scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(r, pl.cdiv(s, block)),
            in_specs=[queries(c), part, part],
            out_specs=[queries(c), queries(1)],
            scratch_shapes=[pltpu.VMEM((kv, m, c), jnp.float32), column, column],
        ),
        out_shape=[jax.ShapeDtypeStruct((r, kv, m, width), jnp.float32) for width in (c, 1)],
        compiler_params=compiler_params("parallel", "arbitrary"),
        cost_estimate=pl.CostEstimate(
            flops=4 * r * kv * m * s * c,
            transcendentals=r * kv * m * s,
            bytes_accessed=2 * r * kv * s * c * keys.dtype.itemsize + 3 * q.nbytes,
        ),
        interpret=target == "cpu" if interpret is None else interpret,
        name="decode_attention",
    )(lengths, q, keys, values)
    return out, lse[..., 0]


def block_size(kv: int, c: int, itemsize: int) -> int:
    """Keys per block, all heads together: a multiple of 128 near :data:`_BLOCK_BYTES`."""
    key = 2 * kv * pl.cdiv(c, LANES) * LANES * itemsize
    return max(1, _BLOCK_BYTES // (key * LANES)) * LANES


def _kernel(scale, lengths, q, k, v, out, lse, acc, top, total):
    """Loop over the blocks of one row, with a running softmax."""
    row, j = pl.program_id(0), pl.program_id(1)
    block = k.shape[1]
    left = lengths[row] - j * block  # keys from this block on

    @pl.when(j == 0)
    def start():
        acc[...] = jnp.zeros_like(acc)
        top[...] = jnp.full_like(top, MASKED)
        total[...] = jnp.zeros_like(total)

    def tile(partial):
        new = v[...]
        scores = jax.lax.dot_general(q[...], k[...], _NT, preferred_element_type=jnp.float32) * scale
        if partial:
            scores = jnp.where(jax.lax.broadcasted_iota(jnp.int32, scores.shape, 2) < left, scores, MASKED)
            # Values after the length may be NaN, and a weight of 0 does not remove NaN.
            new = jnp.where(jax.lax.broadcasted_iota(jnp.int32, new.shape, 1) < left, new, jnp.zeros_like(new))
        before = top[...]
        now = jnp.maximum(before, jnp.max(scores, axis=-1, keepdims=True))
        weights = jnp.exp(scores - now)
        fade = jnp.exp(before - now)
        top[...] = now
        total[...] = fade * total[...] + jnp.sum(weights, axis=-1, keepdims=True)
        acc[...] = acc[...] * fade + jax.lax.dot_general(
            weights.astype(new.dtype), new, _NN, preferred_element_type=jnp.float32
        )

    pl.when(left >= block)(lambda: tile(False))
    pl.when((left > 0) & (left < block))(lambda: tile(True))

    @pl.when(j == pl.num_programs(1) - 1)
    def finish():
        alive = jnp.where(total[...] > 0, total[...], 1.0)
        out[...] = acc[...] / alive
        lse[...] = top[...] + jnp.log(alive)  # MASKED for a fully masked row
