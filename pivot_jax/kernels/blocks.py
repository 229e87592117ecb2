"""Which blocks of keys a block of queries visits, from the codes of :mod:`pivot_jax.kernels.mask`.

Minima and maxima of the codes per block say which blocks cannot attend to each other (skipped) and which do so wholly
(no mask needed). Both answers are safe: a block that is neither is visited with its mask.

Letters: b rows, n queries, m keys, i query blocks, j key blocks.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from pivot_jax.kernels.mask import BASE, Codes

Array = jax.Array


@struct.dataclass
class Visits:
    """For each block of one side, the blocks of the other side to visit, in order.

    ``blocks`` [b, i, j]: the first ``count`` entries are valid. After them the last one repeats, and a pipeline that
    follows the list fetches nothing new. ``whole`` [b, i, j]: 1 where no mask is needed.
    """

    blocks: Array
    count: Array  # [b, i]
    whole: Array


def relation(codes: Codes, causal: bool, q_block: int, k_block: int) -> tuple[Array, Array]:
    """Per pair of blocks, bool [b, i, j]: whether any pair of tokens may be visible, and whether all are."""
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
    """The visits of a [b, i, j] relation. For the visits of key blocks transpose it first."""
    order = jnp.argsort(~some, axis=-1, stable=True).astype(jnp.int32)
    count = jnp.sum(some, axis=-1, dtype=jnp.int32)
    index = jnp.minimum(jnp.arange(some.shape[-1]), jnp.maximum(count - 1, 0)[..., None])
    blocks = jnp.take_along_axis(order, index, axis=-1)
    return Visits(blocks, count, jnp.take_along_axis(every, blocks, axis=-1).astype(jnp.int32))


def _blocks(x: Array, size: int) -> Array:
    return x.reshape(x.shape[0], -1, size)


def _meet(q: Array, q_real: Array, k: Array, k_real: Array) -> Array:
    """[b, i, j]: whether the ranges of the real codes overlap; false where a block has no real code."""
    (q_low, q_high), (k_low, k_high) = _range(q, q_real), _range(k, k_real)
    return (q_low[:, :, None] <= k_high[:, None, :]) & (k_low[:, None, :] <= q_high[:, :, None])


def _range(x: Array, real: Array) -> tuple[Array, Array]:
    most = jnp.iinfo(jnp.int32).max
    return jnp.min(jnp.where(real, x, most), axis=-1), jnp.max(jnp.where(real, x, -most), axis=-1)


def _all_equal(q: Array, k: Array) -> Array:
    """[b, i, j]: whether both blocks hold a single code, the same one; padding has another code on each side."""
    one = [jnp.all(x == x[..., :1], axis=-1) for x in (q, k)]
    return one[0][:, :, None] & one[1][:, None, :] & (q[..., 0][:, :, None] == k[..., 0][:, None, :])
