"""Backward kernels: one for dq, which loops over keys as the forward kernel does, and one for dk and dv over queries.

Both recompute the scores: seven products in total instead of five. In return every sum stays in the registers of one
program, and a gradient has the same bits in every run.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pivot_jax.kernels.blocks import relation
from pivot_jax.kernels.gpu.mosaic_tile import (
    COMPUTE_REGISTERS,
    ROWS,
    TILE,
    WARPGROUPS,
    Spec,
    add_product,
    add_product_and_nt,
    along,
    apply_mask,
    code_arrays,
    code_tiles,
    copy_codes,
    fetch,
    laid_out,
    launch,
    product_nt,
    schedule,
    tiles,
    vector,
    visit,
    weights_and_product_nt,
)
from pivot_jax.kernels.mask import Codes

Array = jax.Array
_STAGES = 2  # steps whose tiles are in shared memory
_STEP = 64  # keys, or queries, a step
_PROGRAMS = 264  # two for each SM of an H100 or H200


def backward(spec: Spec, q, k, v, codes: Codes, out, lse, d_out) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v, with shapes and lengths of :func:`pivot_jax.kernels.gpu.mosaic_forward.forward`."""
    delta = jnp.einsum("bnhc,bnhc->bhn", d_out, out, preferred_element_type=jnp.float32)
    arrays = (q, k, v, d_out, lse, delta)
    return _d_queries(spec, codes, *arrays), *_d_keys(spec, codes, *arrays)


def _d_queries(spec: Spec, codes: Codes, q, k, v, d_out, lse, delta) -> Array:
    b, n, h, c = q.shape
    order, counts = schedule(*relation(codes, spec.causal, TILE, _STEP))
    own, keys = code_arrays(spec, codes)
    pair = lambda *shape: tiles((*shape, c), q.dtype)  # noqa: E731
    scratch = {
        "q_tile": pair(WARPGROUPS, ROWS),
        "d_tile": pair(WARPGROUPS, ROWS),
        "lse_tile": plgpu.SMEM((WARPGROUPS, ROWS), jnp.float32),
        "delta_tile": plgpu.SMEM((WARPGROUPS, ROWS), jnp.float32),
        "k_tile": pair(_STAGES, _STEP),
        "v_tile": pair(_STAGES, _STEP),
        "own_codes": code_tiles(WARPGROUPS, own, ROWS),
        "key_codes": code_tiles(_STAGES, keys, _STEP),
        "q_ready": plgpu.Barrier(num_arrivals=4 + len(own), num_barriers=WARPGROUPS),
        "k_ready": plgpu.Barrier(num_arrivals=2 + len(keys), num_barriers=_STAGES),
        "k_free": plgpu.Barrier(num_arrivals=WARPGROUPS, num_barriers=_STAGES),
    }
    body = functools.partial(_d_queries_kernel, spec, h // k.shape[2], n // TILE)
    grid = {"row": b, "tile": n // TILE, "head": h}
    kernel = launch(spec, body, "attention_d_queries", grid, jax.ShapeDtypeStruct(q.shape, q.dtype), scratch)
    return kernel(order, counts, q, k, v, d_out, lse, delta, own, keys)


def _d_queries_kernel(
    spec, group, tile_count, order, counts, q, k, v, d_out, lse, delta, own, keys, dq, *, q_tile, d_tile, lse_tile,
    delta_tile, k_tile, v_tile, own_codes, key_codes, q_ready, k_ready, k_free,
):  # fmt: skip
    b, head, wg = lax.axis_index("row"), lax.axis_index("head"), lax.axis_index("wg")
    i = tile_count - 1 - lax.axis_index("tile")  # with causal masks the last tiles are the longest: they start first

    @pl.when(wg < WARPGROUPS)
    def compute():
        plgpu.set_max_registers(COMPUTE_REGISTERS, action="increase")
        queries = pl.ds(i * TILE + wg * ROWS, ROWS)
        for source, target in ((q, q_tile), (d_out, d_tile)):
            plgpu.copy_gmem_to_smem(source.at[b, queries, head], target.at[wg], q_ready.at[wg])
        for source, target in ((lse, lse_tile), (delta, delta_tile)):
            plgpu.copy_gmem_to_smem(source.at[b, head, queries], target.at[wg], q_ready.at[wg])
        copy_codes(own, b, queries, own_codes, wg, q_ready)
        plgpu.barrier_wait(q_ready.at[wg])
        row_lse, row_delta = (vector(spec, x.at[wg], 0) for x in (lse_tile, delta_tile))

        def step(masked, t, acc):
            slot = lax.rem(t, jnp.int32(_STAGES))

            def to_weights(scores):
                weights = jnp.exp2(scores * spec.rate - along(row_lse, 0, scores.shape))
                if masked:
                    weights = apply_mask(spec, weights, (own_codes, wg), (key_codes, slot), 0, 0.0)
                return weights

            plgpu.barrier_wait(k_ready.at[slot])
            factors = q_tile.at[wg], k_tile.at[slot], to_weights, d_tile.at[wg], v_tile.at[slot]
            weights, d_weights = weights_and_product_nt(spec, *factors)
            d_scores = weights * (d_weights - along(row_delta, 0, weights.shape))
            acc = add_product(spec, acc, d_scores.astype(k.dtype), k_tile.at[slot])
            plgpu.barrier_arrive(k_free.at[slot])
            return acc

        acc = laid_out(spec, jnp.zeros((ROWS, q_tile.shape[-1]), jnp.float32))
        acc = visit(spec, counts, (b, i), step, acc)
        q_tile[wg] = (acc * (spec.rate / math.log2(math.e))).astype(dq.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_tile.at[wg], dq.at[b, queries, head])
        plgpu.wait_smem_to_gmem(0)

    @pl.when(wg == WARPGROUPS)
    def fetch_keys():
        def copy(t, slot):
            rows = pl.ds(order[b, i, t] * _STEP, _STEP)
            for source, target in ((k, k_tile), (v, v_tile)):
                tile = source.at[b, rows, lax.div(head, jnp.int32(group))]
                plgpu.copy_gmem_to_smem(tile, target.at[slot], k_ready.at[slot])
            copy_codes(keys, b, rows, key_codes, slot, k_ready)

        fetch(counts[b, i, 1], _STAGES, [(copy, k_free)])


def _d_keys(spec: Spec, codes: Codes, q, k, v, d_out, lse, delta) -> tuple[Array, Array]:
    b, m, kv, c = k.shape
    group = q.shape[2] // kv
    chunks = _chunks(group, b * kv * (m // TILE))
    some, every = relation(codes, spec.causal, _STEP, TILE)
    order, counts = schedule(some.swapaxes(1, 2), every.swapaxes(1, 2))
    own, keys = code_arrays(spec, codes)
    d_type = jax.ShapeDtypeStruct((b, m, kv * chunks, c), k.dtype if chunks == 1 else jnp.float32)
    pair = lambda *shape: tiles((*shape, c), k.dtype)  # noqa: E731
    scratch = {
        "k_tile": pair(WARPGROUPS, ROWS),
        "v_tile": pair(WARPGROUPS, ROWS),
        "out_tile": tiles((WARPGROUPS, ROWS, c), d_type.dtype),
        "q_tile": pair(_STAGES, _STEP),
        "d_tile": pair(_STAGES, _STEP),
        "lse_tile": plgpu.SMEM((_STAGES, _STEP), jnp.float32),
        "delta_tile": plgpu.SMEM((_STAGES, _STEP), jnp.float32),
        "own_codes": code_tiles(_STAGES, own, _STEP),
        "key_codes": code_tiles(WARPGROUPS, keys, ROWS),
        "k_ready": plgpu.Barrier(num_arrivals=2 + len(keys), num_barriers=WARPGROUPS),
        "q_ready": plgpu.Barrier(num_arrivals=4 + len(own), num_barriers=_STAGES),
        "q_free": plgpu.Barrier(num_arrivals=WARPGROUPS, num_barriers=_STAGES),
    }
    body = functools.partial(_d_keys_kernel, spec, group // chunks, chunks)
    grid = {"row": b, "tile": m // TILE, "head": kv * chunks}
    kernel = launch(spec, body, "attention_d_keys", grid, [d_type, d_type], scratch)
    dk, dv = kernel(order, counts, q, k, v, d_out, lse, delta, own, keys)
    if chunks > 1:
        dk, dv = (x.reshape(b, m, kv, chunks, c).sum(3).astype(k.dtype) for x in (dk, dv))
    return dk, dv


def _d_keys_kernel(
    spec, heads, chunks, order, counts, q, k, v, d_out, lse, delta, own, keys, dk, dv, *, k_tile, v_tile, out_tile,
    q_tile, d_tile, lse_tile, delta_tile, own_codes, key_codes, k_ready, q_ready, q_free,
):  # fmt: skip
    """Scores are [keys, queries] here. Each tile of queries is processed for ``heads`` query heads in turn: all query
    heads of a key/value head, or a part of them."""
    b, j, part, wg = (lax.axis_index(x) for x in ("row", "tile", "head", "wg"))

    @pl.when(wg < WARPGROUPS)
    def compute():
        plgpu.set_max_registers(COMPUTE_REGISTERS, action="increase")
        rows = pl.ds(j * TILE + wg * ROWS, ROWS)
        for source, target in ((k, k_tile), (v, v_tile)):
            plgpu.copy_gmem_to_smem(source.at[b, rows, lax.div(part, jnp.int32(chunks))], target.at[wg], k_ready.at[wg])
        copy_codes(keys, b, rows, key_codes, wg, k_ready)
        plgpu.barrier_wait(k_ready.at[wg])

        def step(masked, t, carry):
            slot = lax.rem(t, jnp.int32(_STAGES))
            plgpu.barrier_wait(q_ready.at[slot])
            scores = product_nt(spec, k_tile.at[wg], q_tile.at[slot])
            weights = jnp.exp2(scores * spec.rate - along(vector(spec, lse_tile.at[slot], 1), 1, scores.shape))
            if masked:
                weights = apply_mask(spec, weights, (own_codes, slot), (key_codes, wg), 1, 0.0)
            minus_delta = along(-vector(spec, delta_tile.at[slot], 1), 1, scores.shape)
            dk_acc, dv_acc = carry
            # dv together with v d^T, not with dk: both sums and both of their factors at once exceed the registers.
            d_factors = (weights.astype(q.dtype), d_tile.at[slot]), (v_tile.at[wg], d_tile.at[slot])
            dv_acc, d_weights = add_product_and_nt(spec, (dv_acc, minus_delta), *d_factors)
            d_scores = weights * d_weights
            dk_acc = add_product(spec, dk_acc, d_scores.astype(q.dtype), q_tile.at[slot])
            plgpu.barrier_arrive(q_free.at[slot])
            return dk_acc, dv_acc

        zeros = laid_out(spec, jnp.zeros((ROWS, k_tile.shape[-1]), jnp.float32))
        dk_acc, dv_acc = visit(spec, counts, (b, j), step, (zeros, zeros), times=heads)
        for acc, target in ((dk_acc * (spec.rate / math.log2(math.e)), dk), (dv_acc, dv)):
            out_tile[wg] = acc.astype(target.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(out_tile.at[wg], target.at[b, rows, part])
            plgpu.wait_smem_to_gmem(0)

    @pl.when(wg == WARPGROUPS)
    def fetch_queries():
        def copy(t, slot):
            head = part * heads + lax.rem(t, jnp.int32(heads))
            queries = pl.ds(order[b, j, lax.div(t, jnp.int32(heads))] * _STEP, _STEP)
            for source, target in ((q, q_tile), (d_out, d_tile)):
                plgpu.copy_gmem_to_smem(source.at[b, queries, head], target.at[slot], q_ready.at[slot])
            for source, target in ((lse, lse_tile), (delta, delta_tile)):
                plgpu.copy_gmem_to_smem(source.at[b, head, queries], target.at[slot], q_ready.at[slot])
            copy_codes(own, b, queries, own_codes, slot, q_ready)

        fetch(counts[b, j, 1] * heads, _STAGES, [(copy, q_free)])


def _chunks(group: int, programs: int) -> int:
    """The number of parts into which a key/value head's query heads are divided to fill the GPU with programs."""
    return next((x for x in range(1, group) if group % x == 0 and programs * x >= _PROGRAMS), group)
