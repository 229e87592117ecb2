"""Backward kernel: dq, dk and dv in one pass over the keys."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pivot_jax.kernels import blocks
from pivot_jax.kernels.tpu.tile import (
    LANES,
    NN,
    NT,
    TN,
    Spec,
    apply_mask,
    code_arrays,
    column_of,
    compiler_params,
    scalars,
    tile_scores,
    visit_tile,
)

Array = jax.Array
_DQ_BYTES = 24 << 20  # of VMEM for the running dq


def backward(spec: Spec, q, k, v, where, out, lse, d_out):
    """dq [b, h, n, c], dk and dv [b, k, m, c]; ``where``: codes, and the relation of blocks."""
    codes, some, every = where
    b, h, n, c = q.shape
    kv, m = k.shape[1], k.shape[2]
    heads = _heads_at_once(h // kv, n * c * 4)
    chunks = h // kv // heads  # of a key/value head's queries; more than one only where dq would not fit
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)[:, :, None]
    visits = blocks.visits(some.swapaxes(1, 2), every.swapaxes(1, 2))
    tiles_i, tiles_j = n // spec.q_block, m // spec.k_block
    grid = (b, kv * chunks, tiles_j, heads, tiles_i)

    def visited(b, j, i, lists):
        return lists[(b * tiles_j + j) * tiles_i + i]

    q_spec = pl.BlockSpec(
        (1, 1, spec.q_block, c), lambda b, x, j, g, i, lists, *_: (b, x * heads + g, visited(b, j, i, lists), 0)
    )
    row = pl.BlockSpec(
        (1, 1, 1, spec.q_block), lambda b, x, j, g, i, lists, *_: (b, x * heads + g, 0, visited(b, j, i, lists))
    )
    k_spec = pl.BlockSpec((1, 1, spec.k_block, c), lambda b, x, j, g, i, *_: (b, x // chunks, j, 0))
    dk_spec = pl.BlockSpec((1, 1, spec.k_block, c), lambda b, x, j, g, i, *_: (b, x, j, 0))
    dq_spec = pl.BlockSpec((1, heads, n, c), lambda b, x, j, g, i, *_: (b, x, 0, 0))
    q_ids = pl.BlockSpec((1, 1, spec.q_block), lambda b, x, j, g, i, lists, *_: (b, 0, visited(b, j, i, lists)))
    k_ids = pl.BlockSpec((1, 1, spec.k_block), lambda b, x, j, g, i, *_: (b, 0, j))
    ids, id_specs = code_arrays(spec, codes, q_ids, k_ids)
    scratch = [pltpu.VMEM((heads, n, c), jnp.float32)] + [pltpu.VMEM((spec.k_block, c), jnp.float32)] * 2
    if ids:
        scratch.append(pltpu.VMEM((spec.k_block, LANES), jnp.int32))
    d_kv = jax.ShapeDtypeStruct((b, kv * chunks, m, c), k.dtype if chunks == 1 else jnp.float32)
    pairs = 10 * b * h * n * m * c // (2 if spec.causal else 1)
    dq, dk, dv = pl.pallas_call(
        functools.partial(_backward_kernel, spec, grid, len(ids)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=grid,
            in_specs=[*id_specs, q_spec, k_spec, k_spec, q_spec, row, row],
            out_specs=[dq_spec, dk_spec, dk_spec],
            scratch_shapes=scratch,
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), d_kv, d_kv],
        compiler_params=compiler_params("parallel", "parallel", "arbitrary", "arbitrary", "arbitrary"),
        cost_estimate=pl.CostEstimate(
            flops=pairs, transcendentals=pairs // (10 * c), bytes_accessed=3 * q.nbytes + 2 * (k.nbytes + v.nbytes)
        ),
        interpret=spec.interpret,
        name="attention_backward",
    )(*scalars(visits), *ids, q, k, v, d_out, lse, delta)
    if chunks > 1:
        dk, dv = (x.reshape(b, kv, chunks, m, c).sum(2).astype(k.dtype) for x in (dk, dv))
    return dq, dk, dv


def _backward_kernel(spec, grid, id_count, lists, count, whole, *refs):
    ids, (q, k, v, d_out, lse, delta, dq, dk, dv, dq_acc, dk_acc, dv_acc, *column) = refs[:id_count], refs[id_count:]
    b, j, g, i = (pl.program_id(x) for x in (0, 2, 3, 4))
    row = b * grid[2] + j
    block = lists[row * grid[4] + i]
    last_g, last_i = g == grid[3] - 1, i == grid[4] - 1

    @pl.when((j == 0) & (i == 0))
    def start_queries():
        dq_acc[g] = jnp.zeros(dq_acc.shape[1:], dq_acc.dtype)

    @pl.when((g == 0) & (i == 0))
    def start_keys():
        dk_acc[...] = jnp.zeros_like(dk_acc)
        dv_acc[...] = jnp.zeros_like(dv_acc)
        if ids:
            column[0][...] = column_of(ids[-1][0])

    def tile(masked):
        scores = tile_scores(spec, k[0, 0], q[0, 0])  # [keys, queries]: lse and delta are then rows
        if masked:
            key = column[0][...] if ids else None
            scores = apply_mask(spec, scores, [x[0] for x in ids[:-1]], key, 1, block * spec.q_block, j * spec.k_block)
        weights = jnp.exp2(scores - lse[0, 0])
        dv_acc[...] += jax.lax.dot_general(
            weights.astype(d_out.dtype), d_out[0, 0], NN, preferred_element_type=jnp.float32
        )
        d_weights = jax.lax.dot_general(v[0, 0], d_out[0, 0], NT, preferred_element_type=jnp.float32)
        d_scores = (weights * (d_weights - delta[0, 0])).astype(q.dtype)
        dk_acc[...] += jax.lax.dot_general(d_scores, q[0, 0], NN, preferred_element_type=jnp.float32)
        rows = pl.ds(pl.multiple_of(block * spec.q_block, spec.q_block), spec.q_block)
        dq_acc[g, rows] += jax.lax.dot_general(d_scores, k[0, 0], TN, preferred_element_type=jnp.float32)

    visit_tile(spec, grid[2] * grid[4], i < count[row], whole[row * grid[4] + i], tile)
    scale = spec.rate / math.log2(math.e)

    @pl.when(last_g & last_i)
    def finish_keys():
        dk[0, 0] = (dk_acc[...] * scale).astype(dk.dtype)
        dv[0, 0] = dv_acc[...].astype(dv.dtype)

    @pl.when((j == grid[2] - 1) & last_i)
    def finish_queries():
        dq[0, g] = (dq_acc[g] * scale).astype(dq.dtype)


def _heads_at_once(group: int, bytes_per_head: int) -> int:
    return max(x for x in range(1, group + 1) if group % x == 0 and (x == 1 or x * bytes_per_head <= _DQ_BYTES))
