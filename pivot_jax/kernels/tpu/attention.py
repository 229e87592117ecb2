"""Attention on TPUs: Pallas kernels for Mosaic, forward and backward.

A grid step holds one tile of queries and one of keys. The tiles to visit come from :mod:`pivot_jax.kernels.blocks` as
prefetched scalars. Tiles that the mask empties are neither computed nor fetched, and tiles that are wholly visible skip
the mask. A row that fits one tile needs neither lists nor a running softmax. The backward pass is one kernel with five
products instead of two kernels with seven: it loops over the keys, keeps dk and dv of its tile, and adds to a dq that
stays in VMEM for all queries of its heads.

Letters as in :mod:`pivot_jax.kernels.attention`; arrays here are [b, h, n, c] and [b, k, m, c]. Exponents are to base
2, with the scale folded in (``rate = scale * log2 e``), and ``lse`` is to base 2 too.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.kernels import residuals
from pivot_jax.kernels.blocks import relation
from pivot_jax.kernels.dispatch import kind, platform
from pivot_jax.kernels.mask import Ids, encode
from pivot_jax.kernels.tiles import case_of, measured
from pivot_jax.kernels.tpu.backward import backward
from pivot_jax.kernels.tpu.forward import forward
from pivot_jax.kernels.tpu.tile import LANES, Spec
from pivot_jax.shapes import round_up

Array = jax.Array
_ONE_TILE = 768  # tokens; up to this length a row's scores fit one tile, and softmax needs a single pass
_ROWS = 16  # rows of a bfloat16 register


class Sides(NamedTuple):
    """Sides of a tile: queries and keys. The forward and the backward kernel share them."""

    queries: int
    keys: int


class Tiles(NamedTuple):
    """Tile by kernel, in the order in which ``pivot-jax tune`` times them."""

    both: Sides


def attention_tpu(
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

    Args:
      tiles: sides are multiples of 128, or a whole row; default: those ``pivot-jax tune`` measured, else
        :func:`choose_tiles`.
      interpret: run the kernels in JAX's interpreter, which is slow but exact; default: on CPUs.

    Raises:
      ValueError: on a GPU.
    """
    target = platform()
    if target == "gpu":
        raise ValueError("attention backend 'pallas_tpu' does not run on GPUs; use 'auto'")
    interpret = target == "cpu" if interpret is None else interpret
    b, n, _, _ = q.shape
    m = k.shape[1]
    if tiles is None and not interpret:
        found = measured(kind(), "pallas_tpu", case_of(q, k, ids, causal))
        tiles = Tiles(*(Sides(*sides) for sides in found)) if found else None
    q_block, k_block = (tiles or choose_tiles(n, m)).both
    padded_n, padded_m = round_up(n, q_block), round_up(m, k_block)
    mask = ids.kind
    if mask == "none" and padded_m != m and not causal:
        mask = "keys"  # causal: padded keys come after every query that counts
    spec = Spec(causal, scale * math.log2(math.e), mask, q_block, k_block, interpret)
    codes = encode(ids, (b, n, m), (padded_n, padded_m))
    some, every = relation(codes, causal, q_block, k_block)
    heads_first = lambda x, size: _pad(x.transpose(0, 2, 1, 3), size)  # noqa: E731
    out = _attend(
        spec, heads_first(q, padded_n), heads_first(k, padded_m), heads_first(v, padded_m), (codes, some, every)
    )
    return out[:, :, :n].transpose(0, 2, 1, 3)


def choose_tiles(n: int, m: int) -> Tiles:
    """Tiles for rows of n queries and m keys: the least padding, and among those the largest.

    A short row is one tile, which need not be a multiple of 128. Otherwise sides are multiples of 128 up to 768.
    """
    return Tiles(Sides(_side(n), _side(m)))


def _side(length: int) -> int:
    if length <= _ONE_TILE:
        return round_up(length, _ROWS)
    return min(range(LANES, 6 * LANES + 1, LANES), key=lambda size: (round_up(length, size), -size))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(spec: Spec, q: Array, k: Array, v: Array, where: Any) -> Array:
    return forward(spec, q, k, v, where)[0]


def _attend_fwd(spec, q, k, v, where):
    out, lse = residuals.attention(*forward(spec, q, k, v, where))
    return out, (q, k, v, where, out, lse)


def _attend_bwd(spec, kept, d_out):
    q, k, v, where, out, lse = kept
    dq, dk, dv = backward(spec, q, k, v, where, out, lse, d_out)
    return dq, dk, dv, jax.tree.map(_no_gradient, where)


_attend.defvjp(_attend_fwd, _attend_bwd)


def _no_gradient(x: Array) -> Any:
    return np.zeros(x.shape, jax.dtypes.float0)


def _pad(x: Array, size: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, size - x.shape[2]), (0, 0)))
