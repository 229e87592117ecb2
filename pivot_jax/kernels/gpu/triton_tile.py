"""Building blocks of the Triton kernels: settings, the tiles to visit, and how a tile is read, masked and written."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pivot_jax.kernels.mask import match
from pivot_jax.shapes import round_up

Array = jax.Array
MASKED = -1e30
EMPTY = 1e30  # lse of a fully masked query: every exponential relative to it is 0
LEAST = 16  # side of the smallest product in Triton

NT = (((1,), (1,)), ((), ()))
NN = (((1,), (0,)), ((), ()))


class Tile(NamedTuple):
    """Sides of a kernel's tile and how it is compiled."""

    own: int  # rows that a program keeps: queries, or keys in the kernel of dk and dv
    other: int  # rows of one step of its loop
    warps: int
    stages: int


class Tiles(NamedTuple):
    forward: Tile
    dq: Tile
    dkv: Tile


@dataclasses.dataclass(frozen=True)
class Spec:
    """Static settings of the kernels, besides the shapes of their arrays."""

    causal: bool
    rate: float  # scale * log2 e
    tiles: Tiles
    interpret: bool

    @property
    def scale(self) -> float:
        return self.rate / math.log2(math.e)


class Visits(NamedTuple):
    """Tiles to visit, those that need no mask and those that do: their number, and the index of the t-th one."""

    whole: tuple[Any, Callable[[Any], Any]]
    part: tuple[Any, Callable[[Any], Any]]


def own_tile(spec: Spec) -> Any:
    """A program's tile of queries. Causal: the longest loops start first, so none remains alone at the end."""
    index = pl.program_id(0)
    return pl.num_programs(0) - 1 - index if spec.causal else index


def walk(visits: Visits, step, carry):
    """``step(masked, tile, carry)`` for every tile to visit."""
    for masked, (count, index) in ((False, visits.whole), (True, visits.part)):
        if not (isinstance(count, int) and count == 0):
            carry = jax.lax.fori_loop(0, count, lambda t, x, m=masked, p=index: step(m, p(t), x), carry)
    return carry


def keys_to_visit(spec: Spec, tile: Tile, m: int, i, where) -> Visits:
    """Keys' tiles of a tile of queries: whole ones up to the diagonal, then those on the diagonal or with overhang."""
    if where:
        return _listed(i, *where)
    whole: Any = m // tile.other
    end: Any = pl.cdiv(m, tile.other)
    if spec.causal:
        whole = jnp.minimum(whole, (i * tile.own + 1) // tile.other)
        end = jnp.minimum(end, ((i + 1) * tile.own - 1) // tile.other + 1)
    return Visits((whole, lambda t: t), (end - whole, lambda t: whole + t))


def queries_to_visit(spec: Spec, tile: Tile, n: int, j, where) -> Visits:
    """Queries' tiles of a tile of keys: whole ones below the diagonal, then those on the diagonal or with overhang."""
    if where:
        return _listed(j, *where)
    whole, end = n // tile.other, pl.cdiv(n, tile.other)
    start: Any = 0
    below: Any = 0
    if spec.causal:
        start = j * tile.own // tile.other
        below = jnp.minimum(pl.cdiv((j + 1) * tile.own - 1, tile.other), whole)
    diagonal = below - start
    return Visits(
        (whole - below, lambda t: below + t),
        (diagonal + end - whole, lambda t: jnp.where(t < diagonal, start + t, whole + t - diagonal)),
    )


def _listed(own, order, counts) -> Visits:
    whole = counts[own, 0]
    return Visits((whole, lambda t: order[own, t]), (counts[own, 1], lambda t: order[own, whole + t]))


def _chunks(c: int) -> list[tuple[int, int]]:
    """Starts and sizes of powers of two, from 16, that cover a width."""
    found, start, left = [], 0, round_up(c, LEAST)
    while left:
        size = 1 << (left.bit_length() - 1)
        found.append((start, size))
        start, left = start + size, left - size
    return found


def load(ref, first, size: int, length: int, c: int, checked: bool, head=None) -> list[Array]:
    """Rows from ``first`` as chunks of columns; zeros after ``c`` columns, and after ``length`` rows if ``checked``."""
    tile = []
    for start, width in _chunks(c):
        mask = _inside(first, size, length, start, width, c, checked)
        heads = () if head is None else (head,)
        at = ref.at[(pl.ds(first, size), *heads, pl.ds(start, width))]
        tile.append(plgpu.load(at) if mask is None else plgpu.load(at, mask=mask, other=0.0))
    return tile


def store(ref, first, length: int, c: int, tile: list[Array]) -> None:
    for (start, width), part in zip(_chunks(c), tile, strict=True):
        mask = _inside(first, part.shape[0], length, start, width, c, length % part.shape[0] > 0)
        plgpu.store(ref.at[pl.ds(first, part.shape[0]), pl.ds(start, width)], part.astype(ref.dtype), mask=mask)


def _inside(first, size: int, length: int, start: int, width: int, c: int, checked: bool) -> Array | None:
    mask = None
    if checked:
        mask = jnp.broadcast_to((first + jnp.arange(size, dtype=jnp.int32) < length)[:, None], (size, width))
    if start + width > c:
        columns = jnp.broadcast_to((start + jnp.arange(width, dtype=jnp.int32) < c)[None], (size, width))
        mask = columns if mask is None else mask & columns
    return mask


def load_line(ref, head: tuple[Any, ...], first, size: int, length: int, other: float) -> Array:
    at = ref.at[(*head, pl.ds(first, size))]
    if length % size == 0:
        return plgpu.load(at)
    return plgpu.load(at, mask=first + jnp.arange(size, dtype=jnp.int32) < length, other=other)


def codes(refs, first, size: int) -> list[Array]:
    return [ref[pl.ds(first, size)] for ref in refs]


def seen(spec: Spec, m: int, first_q, first_k, shape, queries, keys, q_axis: int) -> Array:
    """The rule of :mod:`pivot_jax.kernels.mask` for a tile; ``queries``: own and shared codes."""
    at = lambda first, axis: first + jax.lax.broadcasted_iota(jnp.int32, shape, axis)  # noqa: E731
    along = lambda x, axis: jnp.broadcast_to(jnp.expand_dims(x, 1 - axis), shape)  # noqa: E731
    seen = at(first_q, q_axis) >= at(first_k, 1 - q_axis) if spec.causal else None
    if queries:
        same = match(along(keys[0], 1 - q_axis), (along(x, q_axis) for x in queries))
        return same if seen is None else seen & same
    # Causal: padded keys come after every query that counts.
    return at(first_k, 1 - q_axis) < m if seen is None else seen


def scores(spec: Spec, rows: list[Array], columns: list[Array]) -> Array:
    return products(rows, columns) * spec.rate


def products(rows: list[Array], columns: list[Array]) -> Array:
    return functools.reduce(jnp.add, (_dot(x, y, NT) for x, y in zip(rows, columns, strict=True)))


def times(weights: Array, tile: list[Array]) -> list[Array]:
    return [_dot(weights.astype(x.dtype), x, NN) for x in tile]


def _dot(x: Array, y: Array, dims) -> Array:
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jax.lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)


def zeros(rows: int, c: int) -> list[Array]:
    return [jnp.zeros((rows, width), jnp.float32) for _, width in _chunks(c)]
