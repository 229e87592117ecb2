"""Which blocks of keys a block of queries has to visit, from the ids of :mod:`pivot_jax.kernels.attention`.

The rule "same segment, and branch 0 or the own branch" becomes two comparisons of one int32 per token: a key carries
``segment * BASE + branch``, a query that code and the one of its segment's branch 0. Minima and maxima of the codes per
block then say which blocks cannot see each other (skipped) and which see each other wholly (no mask needed). Both
answers are safe: a block that is neither is visited with its mask.

Letters: b rows, n queries, m keys, i query blocks, j key blocks.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
BASE = 1 << 12  # branches per segment; 2**19 segments a row
_QUERY_PADDING, _KEY_PADDING = -1, -2


@struct.dataclass
class Codes:
    """int32 per token, padded to whole blocks; padding sees nothing and is seen by nothing."""

    own: Array  # [b, n] of queries: their branch
    shared: Array  # [b, n] of queries: branch 0 of their segment
    keys: Array  # [b, m]


@struct.dataclass
class Visits:
    """For each block of one side, the blocks of the other side to visit, in order.

    ``blocks`` [b, i, j]: the first ``count`` entries; behind them the last one repeated, so that a
    pipeline that follows the list fetches nothing new. ``whole`` [b, i, j]: 1 where no mask is needed.
    """

    blocks: Array
    count: Array  # [b, i]
    whole: Array


def encode(masks: Any, b: int, n: int, m: int, padded_n: int, padded_m: int) -> Codes:
    """Codes of the four id arrays (each [b, n] or [b, m], or None)."""
    q_segments, kv_segments, q_branches, kv_branches = masks
    own = _code(q_segments, q_branches, (b, n), padded_n, _QUERY_PADDING)
    shared = own if q_branches is None else _code(q_segments, None, (b, n), padded_n, _QUERY_PADDING)
    return Codes(own, shared, _code(kv_segments, kv_branches, (b, m), padded_m, _KEY_PADDING))


def _code(segments: Array | None, branches: Array | None, shape: tuple[int, int], length: int, padding: int) -> Array:
    if segments is None:
        code = jnp.full(shape, BASE, jnp.int32)
    else:
        code = segments.astype(jnp.int32) * BASE
        if branches is not None:
            code += branches.astype(jnp.int32)
        code = jnp.where(segments > 0, code, padding)
    return jnp.pad(code, ((0, 0), (0, length - shape[1])), constant_values=padding)


def relation(codes: Codes, causal: bool, q_block: int, k_block: int) -> tuple[Array, Array]:
    """(may any pair be visible, are all) per pair of blocks, bool [b, i, j]."""
    own, shared, keys = _blocks(codes.own, q_block), _blocks(codes.shared, q_block), _blocks(codes.keys, k_block)
    prompt = (keys >= 0) & (keys % BASE == 0)
    some = _meet(own, own >= 0, keys, keys >= 0) | _meet(shared, shared >= 0, keys, prompt)
    every = _all_equal(own, keys) | _all_equal(shared, keys)
    if causal:
        q_first = jnp.arange(own.shape[1])[:, None] * q_block
        k_first = jnp.arange(keys.shape[1])[None, :] * k_block
        some &= (k_first <= q_first + q_block - 1)[None]
        every &= (k_first + k_block - 1 <= q_first)[None]
    return some, every


def visits(some: Array, every: Array) -> Visits:
    """The list of a [b, i, j] relation; transpose it first for the lists of key blocks."""
    order = jnp.argsort(~some, axis=-1, stable=True).astype(jnp.int32)
    count = jnp.sum(some, axis=-1, dtype=jnp.int32)
    place = jnp.minimum(jnp.arange(some.shape[-1]), jnp.maximum(count - 1, 0)[..., None])
    blocks = jnp.take_along_axis(order, place, axis=-1)
    return Visits(blocks, count, jnp.take_along_axis(every, blocks, axis=-1).astype(jnp.int32))


def _blocks(x: Array, size: int) -> Array:
    return x.reshape(x.shape[0], -1, size)


def _meet(q: Array, q_real: Array, k: Array, k_real: Array) -> Array:
    """[b, i, j]: do the ranges of the real codes overlap; never where a block has none."""
    (q_low, q_high), (k_low, k_high) = _range(q, q_real), _range(k, k_real)
    return (q_low[:, :, None] <= k_high[:, None, :]) & (k_low[:, None, :] <= q_high[:, :, None])


def _range(x: Array, real: Array) -> tuple[Array, Array]:
    most = jnp.iinfo(jnp.int32).max
    return jnp.min(jnp.where(real, x, most), axis=-1), jnp.max(jnp.where(real, x, -most), axis=-1)


def _all_equal(q: Array, k: Array) -> Array:
    """[b, i, j]: do both blocks hold one code only, the same; padding's codes differ by side."""
    one = [jnp.all(x == x[..., :1], axis=-1) for x in (q, k)]
    return one[0][:, :, None] & one[1][:, None, :] & (q[..., 0][:, :, None] == k[..., 0][:, None, :])
