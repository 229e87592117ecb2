"""Forward kernel: a program has 128 queries of one head, 64 per warpgroup, and loops over their tiles of keys.

The two warpgroups take turns: one uses the tensor cores while the other computes exponentials.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pivot_jax.kernels.blocks import relation
from pivot_jax.kernels.gpu.mosaic_tile import (
    COMPUTE_REGISTERS,
    EMPTY,
    LOWEST,
    MASKED,
    ROWS,
    TILE,
    WARPGROUPS,
    Spec,
    add_product,
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
    visit,
)
from pivot_jax.kernels.mask import Codes

Array = jax.Array
K_BLOCK = 128  # keys a step
_STAGES = 2  # steps whose keys and values are in shared memory


def forward(spec: Spec, q: Array, k: Array, v: Array, codes: Codes) -> tuple[Array, Array]:
    """Output [b, n, h, c] and lse [b, h, n], for n and m that are multiples of the tiles."""
    b, n, h, c = q.shape
    order, counts = schedule(*relation(codes, spec.causal, TILE, K_BLOCK))
    own, keys = code_arrays(spec, codes)
    pair = lambda *shape: tiles((*shape, c), q.dtype)  # noqa: E731
    scratch = {
        "q_tile": pair(WARPGROUPS, ROWS),
        "k_tile": pair(_STAGES, K_BLOCK),
        "v_tile": pair(_STAGES, K_BLOCK),
        "lse_tile": plgpu.SMEM((WARPGROUPS, ROWS), jnp.float32),
        "own_codes": code_tiles(WARPGROUPS, own, ROWS),
        "key_codes": code_tiles(_STAGES, keys, K_BLOCK),
        "q_ready": plgpu.Barrier(num_arrivals=1 + len(own), num_barriers=WARPGROUPS),
        "k_ready": plgpu.Barrier(num_arrivals=1 + len(keys), num_barriers=_STAGES),
        "v_ready": plgpu.Barrier(num_barriers=_STAGES),
        "k_free": plgpu.Barrier(num_arrivals=WARPGROUPS, num_barriers=_STAGES),
        "v_free": plgpu.Barrier(num_arrivals=WARPGROUPS, num_barriers=_STAGES),
        "turn": plgpu.Barrier(num_arrivals=WARPGROUPS),
    }
    out_type = [jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((b, h, n), jnp.float32)]
    body = functools.partial(_kernel, spec, h // k.shape[2], n // TILE)
    grid = {"row": b, "tile": n // TILE, "head": h}
    return launch(spec, body, "attention_forward", grid, out_type, scratch)(order, counts, q, k, v, own, keys)


def _kernel(
    spec, group, tile_count, order, counts, q, k, v, own, keys, out, lse, *, q_tile, k_tile, v_tile, lse_tile,
    own_codes, key_codes, q_ready, k_ready, v_ready, k_free, v_free, turn,
):  # fmt: skip
    b, head, wg = lax.axis_index("row"), lax.axis_index("head"), lax.axis_index("wg")
    i = tile_count - 1 - lax.axis_index("tile")  # with causal masks the last tiles are the longest: they start first

    @pl.when(wg < WARPGROUPS)
    def compute():
        plgpu.set_max_registers(COMPUTE_REGISTERS, action="increase")
        queries = pl.ds(i * TILE + wg * ROWS, ROWS)
        plgpu.copy_gmem_to_smem(q.at[b, queries, head], q_tile.at[wg], q_ready.at[wg])
        copy_codes(own, b, queries, own_codes, wg, q_ready)
        plgpu.barrier_wait(q_ready.at[wg])

        def pass_turn():
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(turn)

        def step(masked, t, carry):
            acc, top, total = carry
            slot = lax.rem(t, jnp.int32(_STAGES))
            plgpu.barrier_wait(k_ready.at[slot])
            scores = product_nt(spec, q_tile.at[wg], k_tile.at[slot], meanwhile=pass_turn)
            if masked:
                scores = apply_mask(spec, scores, (own_codes, wg), (key_codes, slot), 0, MASKED)
            plgpu.barrier_arrive(k_free.at[slot])
            now = jnp.maximum(top, jnp.max(scores, axis=1) * spec.rate)
            weights = jnp.exp2(scores * spec.rate - along(now, 0, scores.shape))
            fade = jnp.exp2(top - now)
            total = total * fade + jnp.sum(weights, axis=1)
            acc = acc * along(fade, 0, acc.shape)
            # all of the above must be done before the turn is passed
            acc, now, total, weights = lax.optimization_barrier((acc, now, total, weights.astype(v.dtype)))
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(v_ready.at[slot])
            plgpu.barrier_wait(turn)
            acc = add_product(spec, acc, weights, v_tile.at[slot])
            plgpu.barrier_arrive(v_free.at[slot])
            return acc, now, total

        acc = laid_out(spec, jnp.zeros((ROWS, q_tile.shape[-1]), jnp.float32))
        top = laid_out(spec, jnp.full((ROWS,), LOWEST, jnp.float32), 0)
        total = laid_out(spec, jnp.zeros((ROWS,), jnp.float32), 0)
        pl.when(wg == 1)(pass_turn)
        acc, top, total = visit(spec, counts, (b, i), step, (acc, top, total))
        pl.when(wg == 0)(pass_turn)
        dead = total == 0
        inverse = jnp.where(dead, 0.0, 1.0 / jnp.where(dead, 1.0, total))
        q_tile[wg] = (acc * along(inverse, 0, acc.shape)).astype(out.dtype)
        lse_tile[wg] = jnp.where(dead, EMPTY, top + jnp.log2(jnp.where(dead, 1.0, total)))
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_tile.at[wg], out.at[b, queries, head])
        plgpu.copy_smem_to_gmem(lse_tile.at[wg], lse.at[b, head, queries])
        plgpu.wait_smem_to_gmem(0)

    @pl.when(wg == WARPGROUPS)
    def fetch_keys():
        def copy(source, target, ready, code_arrays, t, slot):
            rows = pl.ds(order[b, i, t] * K_BLOCK, K_BLOCK)
            plgpu.copy_gmem_to_smem(
                source.at[b, rows, lax.div(head, jnp.int32(group))], target.at[slot], ready.at[slot]
            )
            copy_codes(code_arrays, b, rows, key_codes[: len(code_arrays)], slot, ready)

        left = functools.partial(copy, k, k_tile, k_ready, keys)
        right = functools.partial(copy, v, v_tile, v_ready, [])
        fetch(counts[b, i, 1], _STAGES, [(left, k_free), (right, v_free)])
