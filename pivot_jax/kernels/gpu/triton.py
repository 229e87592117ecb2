"""Attention on GPUs: Pallas kernels for Triton, forward and backward.

A program owns one tile of rows and loops over the tiles of the other side. Tiles that the mask empties are not visited.
Wholly visible tiles come first, in a loop without a mask. Without ids the visited tiles follow from arithmetic; with
ids they are a list made from :mod:`pivot_jax.kernels.blocks`. The backward pass has a kernel for dq, which loops
over the keys, and one for dk and dv, which loops over the queries of every head of its group. No program adds to the
output of another one.

Any length and width is read in place: a tile's overhang is loaded as zeros and not stored. A width that is not a power
of two is processed as several (72 as 64 and 16), because the sides of Triton's arrays are powers of two.

JAX deprecated this backend of Pallas in 0.11 and warns about it. It needs compute capability 8.0.

Letters as in :mod:`pivot_jax.kernels.attention`. Exponents are to base 2, with the scale folded in
(``rate = scale * log2 e``), and ``lse`` is to base 2 too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pivot_jax.kernels import residuals
from pivot_jax.kernels.blocks import relation
from pivot_jax.kernels.dispatch import kind, platform
from pivot_jax.kernels.gpu import triton_tile as tt
from pivot_jax.kernels.gpu.triton_tile import EMPTY, LEAST, MASKED, Spec, Tile, Tiles
from pivot_jax.kernels.mask import Ids, encode
from pivot_jax.kernels.tiles import case_of, measured
from pivot_jax.shapes import round_up

Array = jax.Array
WIDEST = 128
_DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)

# By widest head: tiles that compile for compute capability 9.0 without spilling registers, whatever the mask. Nothing
# else is known about them: they were not timed.
_HALF = {
    64: Tiles(Tile(128, 64, 4, 3), Tile(64, 64, 4, 2), Tile(64, 64, 4, 2)),
    80: Tiles(Tile(128, 128, 8, 2), Tile(64, 64, 4, 2), Tile(64, 32, 4, 2)),
    128: Tiles(Tile(128, 128, 8, 2), Tile(64, 64, 4, 2), Tile(128, 32, 8, 2)),
}
# float32 products run without tensor cores and keep their operands in registers, which spill at any size.
_FULL = {WIDEST: Tiles(Tile(32, 32, 8, 1), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1))}


def attention_triton(
    q: Array,
    k: Array,
    v: Array,
    ids: Ids,
    *,
    causal: bool,
    scale: float,
    tiles: Tiles | None = None,
    interpret: bool | None = None,
) -> Array:
    """See :func:`pivot_jax.kernels.attention.attention`.

    Products of float32 inputs are float32 (no TF32), which is exact and slow. Products of bfloat16 and float16
    accumulate in float32.

    Args:
      tiles: sides are powers of two from 16; default: those ``pivot-jax tune`` measured, else :func:`choose_tiles`.
      interpret: run the kernels in JAX's interpreter, which is slow but exact; default: on CPUs.

    Raises:
      ValueError: on a TPU, heads wider than 128, or inputs that are not all bfloat16, float16 or float32.
    """
    target = platform()
    if target == "tpu":
        raise ValueError("attention backend 'pallas_triton' does not run on TPUs; use 'auto'")
    if q.shape[-1] > WIDEST:
        raise ValueError(
            f"attention backend 'pallas_triton' supports heads up to {WIDEST}; got {q.shape[-1]}; use 'xla'"
        )
    if {q.dtype} != {k.dtype, v.dtype} or q.dtype not in _DTYPES:
        raise ValueError(
            "attention backend 'pallas_triton' needs q, k and v all in bfloat16, float16 or float32; "
            f"got {q.dtype}, {k.dtype}, {v.dtype}"
        )
    interpret = target == "cpu" if interpret is None else interpret
    if tiles is None and not interpret:
        found = measured(kind(), "pallas_triton", case_of(q, k, ids, causal))
        tiles = Tiles(*(Tile(*tile) for tile in found)) if found else None
    tiles = tiles or choose_tiles(q.shape[1], k.shape[1], q.shape[-1], q.dtype)
    return _attend(Spec(causal, scale * math.log2(math.e), tiles, interpret), q, k, v, ids)


def choose_tiles(n: int, m: int, c: int, dtype: Any) -> Tiles:
    """Tiles for the shape: the tiles of the head width, no longer than the rows."""
    table = _FULL if dtype == jnp.float32 else _HALF
    found = table[min(width for width in table if width >= c)]
    fit = lambda side, length: min(side, max(LEAST, pl.next_power_of_2(length)))  # noqa: E731

    def shorten(tile: Tile, own: int, other: int) -> Tile:
        own, other = fit(tile.own, own), fit(tile.other, other)
        return Tile(own, other, tile.warps if own >= tile.own else 4, tile.stages)

    return Tiles(shorten(found.forward, n, m), shorten(found.dq, n, m), shorten(found.dkv, m, n))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(spec: Spec, q: Array, k: Array, v: Array, ids: Ids) -> Array:
    return _forward(spec, q, k, v, ids)[0]


def _attend_fwd(spec, q, k, v, ids):
    out, lse = residuals.attention(*_forward(spec, q, k, v, ids))
    return out, (q, k, v, ids, out, lse)


def _attend_bwd(spec, kept, d_out):
    q, k, v, ids, out, lse = kept
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1).swapaxes(1, 2)  # [b, h, n]
    dq = _backward_queries(spec, q, k, v, ids, d_out, lse, delta)
    dk, dv = _backward_keys(spec, q, k, v, ids, d_out, lse, delta)
    return dq, dk, dv, jax.tree.map(lambda x: np.zeros(x.shape, jax.dtypes.float0), ids)


_attend.defvjp(_attend_fwd, _attend_bwd)


# --- calls


def _forward(spec: Spec, q, k, v, ids) -> tuple[Array, Array]:
    """Output [b, n, h, c] and lse [b, h, n]."""
    (b, n, h, c), m, tile = q.shape, k.shape[1], spec.tiles.forward
    group, padded_n, padded_m = h // k.shape[2], round_up(n, tile.own), round_up(m, tile.other)
    where, where_specs = _lists(spec, tile, ids, (b, n, m), queries_own=True)
    q_spec, k_spec = _rows(padded_n, c, lambda h: h), _rows(padded_m, c, lambda h: h // group)
    pairs = _pairs(spec, q, k)
    return pl.pallas_call(
        functools.partial(_forward_kernel, spec, (n, m, c)),
        grid=(padded_n // tile.own, h, b),
        in_specs=[q_spec, k_spec, k_spec, *where_specs],
        out_specs=[q_spec, _line(padded_n)],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((b, h, n), jnp.float32)],
        cost_estimate=pl.CostEstimate(
            flops=4 * c * pairs, transcendentals=pairs, bytes_accessed=2 * q.nbytes + k.nbytes + v.nbytes
        ),
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=spec.interpret,
        name="attention_forward",
    )(q, k, v, *where)


def _backward_queries(spec: Spec, q, k, v, ids, d_out, lse, delta) -> Array:
    (b, n, h, c), m, tile = q.shape, k.shape[1], spec.tiles.dq
    group, padded_n, padded_m = h // k.shape[2], round_up(n, tile.own), round_up(m, tile.other)
    where, where_specs = _lists(spec, tile, ids, (b, n, m), queries_own=True)
    q_spec, k_spec = _rows(padded_n, c, lambda h: h), _rows(padded_m, c, lambda h: h // group)
    pairs = _pairs(spec, q, k)
    return pl.pallas_call(
        functools.partial(_dq_kernel, spec, (n, m, c)),
        grid=(padded_n // tile.own, h, b),
        in_specs=[q_spec, k_spec, k_spec, q_spec, _line(padded_n), _line(padded_n), *where_specs],
        out_specs=q_spec,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        cost_estimate=pl.CostEstimate(
            flops=6 * c * pairs, transcendentals=pairs, bytes_accessed=3 * q.nbytes + k.nbytes + v.nbytes
        ),
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=spec.interpret,
        name="attention_backward_queries",
    )(q, k, v, d_out, lse, delta, *where)


def _backward_keys(spec: Spec, q, k, v, ids, d_out, lse, delta) -> tuple[Array, Array]:
    (b, n, h, c), m, tile = q.shape, k.shape[1], spec.tiles.dkv
    group, padded_m, padded_n = h // k.shape[2], round_up(m, tile.own), round_up(n, tile.other)
    where, where_specs = _lists(spec, tile, ids, (b, n, m), queries_own=False)
    k_spec, q_spec = _rows(padded_m, c, lambda h: h), _rows(padded_n, c, lambda h: h, group)
    pairs = _pairs(spec, q, k)
    return pl.pallas_call(
        functools.partial(_dkv_kernel, spec, (n, m, c), group),
        grid=(padded_m // tile.own, k.shape[2], b),
        in_specs=[q_spec, k_spec, k_spec, q_spec, _line(padded_n, group), _line(padded_n, group), *where_specs],
        out_specs=[k_spec, k_spec],
        out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)],
        cost_estimate=pl.CostEstimate(
            flops=8 * c * pairs, transcendentals=pairs, bytes_accessed=2 * (q.nbytes + k.nbytes + v.nbytes)
        ),
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=spec.interpret,
        name="attention_backward_keys",
    )(q, k, v, d_out, lse, delta, *where)


def _rows(length: int, c: int, head: Callable[[Any], Any], group: int | None = None) -> pl.BlockSpec:
    """All rows of one head, or of a key/value head's group, rounded up to whole tiles."""
    width = round_up(c, LEAST)
    return pl.BlockSpec((None, length, group, width), lambda _, h, b: (b, 0, head(h), 0))


def _line(length: int, group: int | None = None) -> pl.BlockSpec:
    return pl.BlockSpec((None, group, length), lambda _, h, b: (b, h, 0))


def _pairs(spec: Spec, q: Array, k: Array) -> int:
    return q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1] // (2 if spec.causal else 1)


def _lists(spec: Spec, tile: Tile, ids: Ids, shape: tuple[int, int, int], queries_own: bool):
    """Arrays that a kernel reads instead of the ids, and their block specs; nothing without ids.

    The arrays are the other side's tiles in the order of their visit [b, own tiles, other tiles]; how many of them are
    whole and how many are not [b, own tiles, 2]; and the codes of queries, of their shared branch (with branches), and
    of keys.
    """
    if ids.kind == "none":
        return [], []
    _, n, m = shape
    q_tile, k_tile = (tile.own, tile.other) if queries_own else (tile.other, tile.own)
    codes = encode(ids, shape, (round_up(n, q_tile), round_up(m, k_tile)))
    some, every = relation(codes, spec.causal, q_tile, k_tile)
    if not queries_own:
        some, every = some.swapaxes(1, 2), every.swapaxes(1, 2)
    whole, part = some & every, some & ~every
    order = jnp.argsort(jnp.where(whole, 0, jnp.where(part, 1, 2)), axis=-1, stable=True).astype(jnp.int32)
    counts = jnp.stack([jnp.sum(x, axis=-1, dtype=jnp.int32) for x in (whole, part)], axis=-1)
    sides = [codes.own, codes.shared, codes.keys] if ids.kind == "branches" else [codes.own, codes.keys]
    specs = [pl.BlockSpec((None, *x.shape[1:]), lambda t, _, b: (b, 0, 0)) for x in (order, counts)]
    return [order, counts, *sides], specs + [pl.BlockSpec((None, x.shape[1]), lambda _, h, b: (b, 0)) for x in sides]


def _forward_kernel(spec, sizes, q, k, v, *refs):
    *where, out, lse = refs
    (n, m, c), tile = sizes, spec.tiles.forward
    i = tt.own_tile(spec)
    first = i * tile.own
    q_tile = tt.load(q, first, tile.own, n, c, n % tile.own > 0)
    codes = tt.codes(where[2:-1], first, tile.own)

    def step(masked, j, carry):
        top, total, acc = carry
        k_tile = tt.load(k, j * tile.other, tile.other, m, c, masked)
        scores = tt.scores(spec, q_tile, k_tile)
        if masked:
            keys = tt.codes(where[-1:], j * tile.other, tile.other)
            scores = jnp.where(tt.seen(spec, m, first, j * tile.other, scores.shape, codes, keys, 0), scores, MASKED)
        now = jnp.maximum(top, jnp.max(scores, axis=1))
        weights = jnp.exp2(scores - now[:, None])
        fade = jnp.exp2(top - now)
        total = total * fade + jnp.sum(weights, axis=1)
        v_tile = tt.load(v, j * tile.other, tile.other, m, c, masked)
        acc = [x * fade[:, None] + y for x, y in zip(acc, tt.times(weights, v_tile), strict=True)]
        return now, total, acc

    top = jnp.full((tile.own,), MASKED, jnp.float32)
    start = (top, jnp.zeros_like(top), tt.zeros(tile.own, c))
    top, total, acc = tt.walk(tt.keys_to_visit(spec, tile, m, i, where[:2]), step, start)
    dead = top <= MASKED / 2
    inverse = jnp.where(dead, 0.0, 1.0 / total)
    tt.store(out, first, n, c, [x * inverse[:, None] for x in acc])
    inside = first + jnp.arange(tile.own, dtype=jnp.int32) < n
    lse_rows = jnp.where(dead, EMPTY, top + jnp.log2(total))
    plgpu.store(lse.at[pl.ds(first, tile.own)], lse_rows, mask=inside)


def _dq_kernel(spec, sizes, q, k, v, d_out, lse, delta, *refs):
    *where, dq = refs
    (n, m, c), tile = sizes, spec.tiles.dq
    i = tt.own_tile(spec)
    first = i * tile.own
    q_tile, d_out_tile = (tt.load(x, first, tile.own, n, c, n % tile.own > 0) for x in (q, d_out))
    lse_rows = tt.load_line(lse, (), first, tile.own, n, EMPTY)
    delta_rows = tt.load_line(delta, (), first, tile.own, n, 0.0)
    codes = tt.codes(where[2:-1], first, tile.own)

    def step(masked, j, acc):
        k_tile = tt.load(k, j * tile.other, tile.other, m, c, masked)
        scores = tt.scores(spec, q_tile, k_tile)
        if masked:
            keys = tt.codes(where[-1:], j * tile.other, tile.other)
            scores = jnp.where(tt.seen(spec, m, first, j * tile.other, scores.shape, codes, keys, 0), scores, MASKED)
        weights = jnp.exp2(scores - lse_rows[:, None])
        v_tile = tt.load(v, j * tile.other, tile.other, m, c, masked)
        d_scores = weights * (tt.products(d_out_tile, v_tile) - delta_rows[:, None])
        return [x + y for x, y in zip(acc, tt.times(d_scores, k_tile), strict=True)]

    acc = tt.walk(tt.keys_to_visit(spec, tile, m, i, where[:2]), step, tt.zeros(tile.own, c))
    tt.store(dq, first, n, c, [x * spec.scale for x in acc])


def _dkv_kernel(spec, sizes, group, q, k, v, d_out, lse, delta, *refs):
    """Scores are [keys, queries] here: lse and delta are then rows, and no weights are transposed."""
    *where, dk, dv = refs
    (n, m, c), tile = sizes, spec.tiles.dkv
    j = pl.program_id(0)
    first = j * tile.own
    k_tile, v_tile = (tt.load(x, first, tile.own, m, c, m % tile.own > 0) for x in (k, v))
    keys = tt.codes(where[-1:], first, tile.own)
    visits = tt.queries_to_visit(spec, tile, n, j, where[:2])

    def head(g, carry):
        def step(masked, i, carry):
            dk_acc, dv_acc = carry
            q_tile = tt.load(q, i * tile.other, tile.other, n, c, masked, g)
            scores = tt.scores(spec, k_tile, q_tile)
            if masked:
                codes = tt.codes(where[2:-1], i * tile.other, tile.other)
                scores = jnp.where(
                    tt.seen(spec, m, i * tile.other, first, scores.shape, codes, keys, 1), scores, MASKED
                )
            lse_rows = tt.load_line(lse, (g,), i * tile.other, tile.other, n, EMPTY)  # EMPTY: the overhang adds nothing
            weights = jnp.exp2(scores - lse_rows[None, :])
            d_out_tile = tt.load(d_out, i * tile.other, tile.other, n, c, masked, g)
            dv_acc = [x + y for x, y in zip(dv_acc, tt.times(weights, d_out_tile), strict=True)]
            delta_rows = tt.load_line(delta, (g,), i * tile.other, tile.other, n, 0.0)
            d_scores = weights * (tt.products(v_tile, d_out_tile) - delta_rows[None, :])
            dk_acc = [x + y for x, y in zip(dk_acc, tt.times(d_scores, q_tile), strict=True)]
            return dk_acc, dv_acc

        return tt.walk(visits, step, carry)

    dk_acc, dv_acc = jax.lax.fori_loop(0, group, head, (tt.zeros(tile.own, c), tt.zeros(tile.own, c)))
    tt.store(dk, first, m, c, [x * spec.scale for x in dk_acc])
    tt.store(dv, first, m, c, dv_acc)
