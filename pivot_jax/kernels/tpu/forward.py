"""Forward kernels: one loops over tiles with a running softmax, the other has a row and head as one tile."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pivot_jax.kernels import blocks
from pivot_jax.kernels.tpu.tile import (
    EMPTY,
    LANES,
    MASKED,
    NN,
    Spec,
    apply_mask,
    code_arrays,
    column_of,
    compiler_params,
    scalars,
    tile_scores,
    visit_tile,
    widen,
)

Array = jax.Array


def forward(spec: Spec, q: Array, k: Array, v: Array, where: Any) -> tuple[Array, Array]:
    """Output [b, h, n, c] and lse [b, h, 1, n]."""
    codes, some, every = where
    b, h, n, c = q.shape
    m, group = k.shape[2], h // k.shape[1]
    visits = blocks.visits(some, every)
    grid = (b, h, n // spec.q_block, m // spec.k_block)
    tiles_i, tiles_j = grid[2:]

    def visited(b, i, j, lists=None):
        return 0 if lists is None else lists[(b * tiles_i + i) * tiles_j + j]

    q_spec = pl.BlockSpec((1, 1, spec.q_block, c), lambda b, h, i, j, *_: (b, h, i, 0))
    k_spec = pl.BlockSpec(
        (1, 1, spec.k_block, c), lambda b, h, i, j, *lists: (b, h // group, visited(b, i, j, *lists[:1]), 0)
    )
    q_ids = pl.BlockSpec((1, 1, spec.q_block), lambda b, h, i, j, *_: (b, 0, i))
    k_ids = pl.BlockSpec((1, 1, spec.k_block), lambda b, h, i, j, *lists: (b, 0, visited(b, i, j, *lists[:1])))
    lse_spec = pl.BlockSpec((1, 1, 1, spec.q_block), lambda b, h, i, j, *_: (b, h, 0, i))
    ids, id_specs = code_arrays(spec, codes, q_ids, k_ids)
    out_shape = [jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((b, h, 1, n), jnp.float32)]
    pairs = b * h * n * m // (2 if spec.causal else 1)
    cost = pl.CostEstimate(
        flops=4 * c * pairs, transcendentals=pairs, bytes_accessed=2 * q.nbytes + k.nbytes + v.nbytes
    )
    if tiles_i * tiles_j == 1:
        one = lambda spec: pl.BlockSpec(spec.block_shape, lambda b, h: spec.index_map(b, h, 0, 0))  # noqa: E731
        return pl.pallas_call(
            functools.partial(_forward_kernel_one, spec, len(ids)),
            grid=grid[:2],
            in_specs=[one(x) for x in (*id_specs, q_spec, k_spec, k_spec)],
            out_specs=[one(q_spec), one(lse_spec)],
            out_shape=out_shape,
            compiler_params=compiler_params("parallel", "parallel"),
            cost_estimate=cost,
            interpret=spec.interpret,
            name="attention_forward",
        )(*ids, q, k, v)
    wide = pltpu.VMEM((spec.q_block, LANES), jnp.float32)
    scratch = [pltpu.VMEM((spec.q_block, c), jnp.float32), wide, wide]
    if len(ids) > 1:
        scratch.append(pltpu.VMEM((len(ids) - 1, spec.q_block, LANES), jnp.int32))
    return pl.pallas_call(
        functools.partial(_forward_kernel, spec, grid, len(ids)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=grid,
            in_specs=[*id_specs, q_spec, k_spec, k_spec],
            out_specs=[q_spec, lse_spec],
            scratch_shapes=scratch,
        ),
        out_shape=out_shape,
        compiler_params=compiler_params("parallel", "parallel", "parallel", "arbitrary"),
        cost_estimate=cost,
        interpret=spec.interpret,
        name="attention_forward",
    )(*scalars(visits), *ids, q, k, v)


def _forward_kernel(spec, grid, id_count, lists, count, whole, *refs):
    """Tiles of one block of queries in turn, with a running softmax."""
    ids, (q, k, v, out, lse, acc, top, total, *columns) = refs[:id_count], refs[id_count:]
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    row = b * grid[2] + i
    c = acc.shape[-1]

    @pl.when(j == 0)
    def start():
        acc[...] = jnp.zeros_like(acc)
        top[...] = jnp.full_like(top, MASKED)
        total[...] = jnp.zeros_like(total)
        for index, ref in enumerate(ids[:-1]):
            columns[0][index] = column_of(ref[0])

    def tile(masked):
        scores = tile_scores(spec, q[0, 0], k[0, 0])
        if masked:
            first_q, first_k = i * spec.q_block, lists[row * grid[3] + j] * spec.k_block
            queries = [columns[0][x] for x in range(id_count - 1)]
            scores = apply_mask(spec, scores, queries, ids[-1][0] if ids else None, 0, first_q, first_k)
        before = top[...]
        now = jnp.maximum(before, jnp.max(scores, axis=-1, keepdims=True))
        weights = jnp.exp2(scores - widen(now, spec.k_block))
        fade = jnp.exp2(before - now)
        top[...] = now
        total[...] = fade * total[...] + jnp.sum(weights, axis=-1, keepdims=True)
        new = jax.lax.dot_general(weights.astype(v.dtype), v[0, 0], NN, preferred_element_type=jnp.float32)
        acc[...] = acc[...] * widen(fade, c) + new

    visit_tile(spec, grid[2] * grid[3], j < count[row], whole[row * grid[3] + j], tile)

    @pl.when(j == grid[3] - 1)
    def finish():
        dead = top[...] <= MASKED / 2
        inverse = jnp.where(dead, 0.0, 1.0 / total[...])
        out[0, 0] = (acc[...] * widen(inverse, c)).astype(out.dtype)
        lse[0, 0] = jnp.where(dead, EMPTY, top[...] + jnp.log2(total[...])).T[:1]


def _forward_kernel_one(spec, id_count, *refs):
    """A row and head as one tile."""
    ids, (q, k, v, out, lse) = refs[:id_count], refs[id_count:]
    scores = tile_scores(spec, q[0, 0], k[0, 0])
    if spec.masks:
        scores = apply_mask(spec, scores, [column_of(x[0]) for x in ids[:-1]], ids[-1][0] if ids else None, 0, 0, 0)
    top = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp2(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    dead = top <= MASKED / 2
    acc = jax.lax.dot_general(weights.astype(v.dtype), v[0, 0], NN, preferred_element_type=jnp.float32)
    out[0, 0] = (acc * jnp.where(dead, 0.0, 1.0 / total)).astype(out.dtype)
    lse[0, 0] = jnp.broadcast_to(jnp.where(dead, EMPTY, top + jnp.log2(total)), (spec.q_block, LANES)).T[:1]
