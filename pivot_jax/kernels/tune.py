"""`pivot-jax tune`: tile sizes of an attention kernel, timed on the present device."""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pivot_jax.errors import UserError
from pivot_jax.kernels.gpu import triton
from pivot_jax.kernels.gpu.triton_tile import Tile
from pivot_jax.kernels.mask import NO_IDS, Ids
from pivot_jax.kernels.tiles import Case
from pivot_jax.kernels.tpu import attention as tpu

_SHAPE = re.compile(r"(\d+)x(\d+)x(\d+)(?:/(\d+))?x(\d+)(?::(causal|full))?(?::(none|segments|branches))?")
_SECONDS = 0.2  # minimum time over which a candidate is timed
_ROUNDS = 3  # the fastest counts: disturbances only slow a device down


class Shape(NamedTuple):
    """Rows and letters as in :mod:`pivot_jax.kernels.attention`; n queries and as many keys."""

    rows: int
    n: int
    h: int
    kv: int
    c: int
    causal: bool
    mask: str


class Tunable(NamedTuple):
    """An attention backend with a choice of tiles; its ``tiles`` are a NamedTuple with one tile per kernel."""

    backend: str
    attend: Callable[..., Any]
    default: Callable[[Shape], Any]
    candidates: Callable[[str, Shape], Iterator[Any]]


class Found(NamedTuple):
    """Milliseconds of a forward and backward pass with the best tiles, and with the defaults."""

    case: Case
    tiles: Any
    ms: float
    default_ms: float


def parse(text: str) -> Shape:
    """The shape of a text such as 8x729x16x72 or 8x2048x14/2x64:causal:segments.

    Raises:
      UserError: the text has another form, or the heads are not a multiple of the key/value heads.
    """
    match = _SHAPE.fullmatch(text)
    if not match:
        raise UserError(
            f"shape '{text}': write ROWSxTOKENSxHEADS[/KEY_VALUE_HEADS]xWIDTH[:causal|full][:none|segments|branches], "
            "such as 8x2048x14/2x64:causal:segments"
        )
    rows, n, h, c = (int(match[i]) for i in (1, 2, 3, 5))
    kv = int(match[4] or h)
    if not min(rows, n, h, kv, c) or h % kv:
        raise UserError(f"shape '{text}': {h} heads are not a multiple of {kv} key/value heads, or a number is 0")
    return Shape(rows, n, h, kv, c, match[6] == "causal", match[7] or "none")


def tune(shape: Shape, tunable: Tunable, timer: Callable[[Shape, Any], float] | None = None) -> Found:
    """The fastest tiles of a backend for a shape in bfloat16, found kernel by kernel from the defaults.

    Args:
      timer: seconds of a forward and backward pass; raises JaxRuntimeError where the tiles do not compile.
        Default: :func:`seconds`.
    """
    timer = timer or functools.partial(seconds, tunable)
    best = default = tunable.default(shape)
    fastest = usual = timer(shape, default)
    for kernel in default._fields:
        for tile in tunable.candidates(kernel, shape):
            tiles = best._replace(**{kernel: tile})
            if tiles == best:
                continue
            try:
                took = timer(shape, tiles)
            except jax.errors.JaxRuntimeError as error:  # usually: not enough shared memory
                logging.getLogger("pivot_jax").info(
                    f"{kernel} {tuple(tile)} does not run: {str(error).splitlines()[0]}"
                )
                continue
            if took < fastest:
                best, fastest = tiles, took
    case = Case(shape.n, shape.n, shape.h // shape.kv, shape.c, "bfloat16", shape.causal, shape.mask)
    return Found(case, best, 1e3 * fastest, 1e3 * usual)


def triton_candidates(kernel: str, shape: Shape) -> Iterator[Tile]:
    """Tiles to time: four warps, for tiles of 128 rows also eight; sides no longer than the row needs."""
    longest = max(16, 1 << (shape.n - 1).bit_length())
    for own in (64, 128):
        for other in (32, 64, 128) if kernel == "forward" else (32, 64):
            for warps in (4, 8) if own == 128 else (4,):
                for stages in (2, 3):
                    if max(own, other) <= longest:
                        yield Tile(own, other, warps, stages)


def tpu_candidates(kernel: str, shape: Shape) -> Iterator[tpu.Sides]:
    """Sides from 128 to 1,024 that are shorter than the row. A short row as a whole is a default already."""
    sides = [side for side in (128, 256, 384, 512, 768, 1024) if side < shape.n]
    for queries in sides:
        for keys in sides:
            yield tpu.Sides(queries, keys)


# By platform. The Mosaic kernels of Hopper GPUs have a single tile size, set by a warpgroup's product.
TUNABLE = {
    "gpu": Tunable(
        "pallas_triton",
        triton.attention_triton,
        lambda shape: triton.choose_tiles(shape.n, shape.n, shape.c, jnp.bfloat16),
        triton_candidates,
    ),
    "tpu": Tunable("pallas_tpu", tpu.attention_tpu, lambda shape: tpu.choose_tiles(shape.n, shape.n), tpu_candidates),
}


def seconds(tunable: Tunable, shape: Shape, tiles: Any) -> float:
    """Seconds of one forward and backward pass on the default device, the fastest of several rounds."""
    keys = jax.random.split(jax.random.key(0), 4)
    size = (shape.rows, shape.n, shape.h, shape.c)
    q, probe = (jax.random.normal(key, size, jnp.bfloat16) for key in keys[:2])
    k, v = (jax.random.normal(key, (*size[:2], shape.kv, shape.c), jnp.bfloat16) for key in keys[2:])
    ids = _ids(shape)

    @jax.jit
    def step(q, k, v, probe):
        compute = functools.partial(tunable.attend, ids=ids, causal=shape.causal, scale=shape.c**-0.5, tiles=tiles)
        out, pull = jax.vjp(compute, q, k, v)
        return out, pull(probe)

    def run(times):
        for _ in range(times):
            last = step(q, k, v, probe)
        jax.block_until_ready(last)

    run(1)
    once = _clock(run, 1)
    times = max(1, min(1000, int(_SECONDS / _ROUNDS / max(once, 1e-6))))
    return min(_clock(run, times) / times for _ in range(_ROUNDS))


def _clock(run: Callable[[int], Any], times: int) -> float:
    start = time.perf_counter()
    run(times)
    return time.perf_counter() - start


def _ids(shape: Shape) -> Ids:
    """Ids of two packed conversations per row; with branches, of one prompt and two answers."""
    if shape.mask == "none":
        return NO_IDS
    at = jnp.broadcast_to(jnp.arange(shape.n, dtype=jnp.int32), (shape.rows, shape.n))
    if shape.mask == "segments":
        return Ids.same(1 + at * 2 // shape.n)
    return Ids.same(jnp.ones_like(at), jnp.maximum(0, at * 4 // shape.n - 1))
