"""What the Mosaic GPU kernels share: their settings, products on tensor cores, tile masks, lists of tiles to visit.

A program is a few warpgroups of 128 threads: all but the last compute, the last one fetches tiles by TMA. JAX's
interpreter for these kernels simulates memory, copies and barriers, but no product with an operand or a running sum in
registers, and no register layouts; under ``Spec.interpret`` the functions here take plain ``jnp`` for those.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pivot_jax.kernels import blocks as blocks_lib

Array = jax.Array
MASKED = -jnp.inf  # a score; a finite one times the rate would be off by its rounding, 1e22
LOWEST = -1e30  # where a row's running maximum starts: finite, so that a row that sees nothing gives no NaN
EMPTY = 1e30  # lse of a query that sees nothing: every exponent against it is 0
ROWS = 64  # of a tile per warpgroup: what one tensor core instruction takes
WARPGROUPS = 2  # that compute
TILE = ROWS * WARPGROUPS
COMPUTE_REGISTERS, FETCH_REGISTERS = 240, 24  # a thread; an SM has 65536


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a kernel is specialised on."""

    causal: bool
    rate: float  # scale * log2 e; positive
    mask: str  # none | keys (padding of keys only) | segments | branches
    interpret: bool

    @property
    def masks(self) -> bool:
        return self.causal or self.mask != "none"


def launch(spec: Spec, body: Any, name: str, grid: dict[str, int], out_type: Any, scratch: dict[str, Any]) -> Any:
    """``plgpu.kernel`` with one fetching and :data:`WARPGROUPS` computing warpgroups as axis ``wg``."""
    return plgpu.kernel(
        body,
        out_type=out_type,
        scratch_types=scratch,
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        num_threads=WARPGROUPS + 1,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=_interpreter() if spec.interpret else None,
        kernel_name=name,
    )


def _interpreter() -> Any:
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams  # public from JAX 0.11 on

    return InterpretGPUParams()


def tiles(shape: tuple[int, ...], dtype: Any) -> Any:
    """Shared memory [..., rows, c] in the layout that tensor cores read, with the widest swizzle that divides c."""
    swizzle = plgpu.find_swizzle(shape[-1] * jnp.finfo(dtype).bits)
    tiling = plgpu.TilingTransform((8, 8 * swizzle // jnp.finfo(dtype).bits))
    return plgpu.SMEM(shape, dtype, transforms=(tiling, plgpu.SwizzleTransform(swizzle)))


def product_nt(spec: Spec, a: Any, b: Any, meanwhile: Any = lambda: None) -> Array:
    """a [n, c] b [m, c]^T → [n, m] in float32, both in shared memory; ``meanwhile`` is called before it is awaited."""
    if spec.interpret:
        meanwhile()
        return jnp.dot(a[...], b[...].T, preferred_element_type=jnp.float32)

    def compute(acc):
        plgpu.wgmma(acc, a, b.transpose((1, 0)))
        meanwhile()
        return acc[...]

    return pl.run_scoped(compute, plgpu.ACC((a.shape[0], b.shape[0]), jnp.float32))


def add_product_and_nt(spec: Spec, accs: tuple[Array, Array], rows: tuple[Any, Any], nt: tuple[Any, Any]) -> Any:
    """One sum plus a product of ``rows``, as in :func:`add_product`, the other plus :func:`product_nt` of ``nt``."""
    if spec.interpret:
        return add_product(spec, accs[0], *rows), accs[1] + product_nt(spec, *nt)

    def compute(refs):
        plgpu.wgmma(refs[0], *rows)
        plgpu.wgmma(refs[1], nt[0], nt[1].transpose((1, 0)))

    return pl.run_state(compute)(tuple(plgpu.ACC.init(acc) for acc in accs))


def weights_and_product_nt(spec: Spec, a: Any, b: Any, to_weights: Any, x: Any, y: Any) -> tuple[Array, Array]:
    """``to_weights(product_nt(a, b))`` and ``product_nt(x, y)``, which runs beside ``to_weights``."""
    if spec.interpret:
        return to_weights(product_nt(spec, a, b)), product_nt(spec, x, y)

    def compute(scores, other):
        plgpu.wgmma(scores, a, b.transpose((1, 0)))
        plgpu.wgmma(other, x, y.transpose((1, 0)))
        return to_weights(plgpu.wgmma_accumulator_load(scores, wait_n=1)), other[...]

    return pl.run_scoped(compute, *(plgpu.ACC((u.shape[0], v.shape[0]), jnp.float32) for u, v in ((a, b), (x, y))))


def add_product(spec: Spec, acc: Array, row: Array, factor: Any) -> Array:
    """acc + row factor; row [n, m] in registers, factor [m, c] in shared memory."""
    if spec.interpret:
        return acc + jnp.dot(row, factor[...], preferred_element_type=jnp.float32)
    return pl.run_state(lambda ref: plgpu.wgmma(ref, row, factor))(plgpu.ACC.init(acc))


def laid_out(spec: Spec, x: Array, axis: int | None = None) -> Array:
    """``x`` as a tile in registers, or, with ``axis``, as the vector that runs along this axis of a tile."""
    if spec.interpret:
        return x
    layout = plgpu.Layout.WGMMA
    return plgpu.layout_cast(x, layout if axis is None else layout.reduce(1 - axis))


def vector(spec: Spec, ref: Any, axis: int) -> Array:
    """A vector in shared memory, :func:`laid_out`."""
    return laid_out(spec, ref[...], axis)


def along(x: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """A vector along ``axis`` of a tile, repeated over the other one."""
    return jax.lax.broadcast_in_dim(x, shape, [axis])


def code_arrays(spec: Spec, codes: blocks_lib.Codes) -> tuple[list[Array], list[Array]]:
    """What the mask compares: [b, codes, n] of the queries and [b, codes, m] of the keys, or nothing.

    Positions stand among the codes: they are read per tile, where column numbers would be kept in registers throughout.
    """
    queries = {"none": [], "keys": [], "segments": [codes.own], "branches": [codes.own, codes.shared]}[spec.mask]
    keys = [] if spec.mask == "none" else [codes.keys]
    if spec.causal:
        position = lambda x: jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape)  # noqa: E731
        queries, keys = [*queries, position(codes.own)], [*keys, position(codes.keys)]
    stack = lambda x: [jnp.stack(x, axis=1)] if x else []  # noqa: E731
    return stack(queries), stack(keys)


def code_tiles(count: int, arrays: list[Array], width: int) -> list[Any]:
    """Shared memory for ``count`` tiles of the codes of one side."""
    return [plgpu.SMEM((count, x.shape[1], width), jnp.int32) for x in arrays]


def copy_codes(arrays: Any, row: Any, place: Any, tiles: Any, slot: Any, ready: Any) -> None:
    """Fetches the codes at ``place`` into slot ``slot`` of their tiles."""
    for source, target in zip(arrays, tiles, strict=True):
        plgpu.copy_gmem_to_smem(source.at[row, :, place], target.at[slot], ready.at[slot])


def apply_mask(spec: Spec, tile: Array, queries: Any, keys: Any, q_axis: int, hidden: float) -> Array:
    """``tile`` where the rule of :mod:`pivot_jax.kernels.attention` lets the query see the key, else ``hidden``.

    Queries run along ``q_axis``. ``queries`` and ``keys`` are pairs of :func:`code_tiles` and a slot.
    """

    def across(side, axis):
        tiles, slot = side
        codes = [vector(spec, ref.at[slot, x], axis) for ref in tiles for x in range(ref.shape[1])]
        return [along(x, axis, tile.shape) for x in codes]

    own, other = across(queries, q_axis), across(keys, 1 - q_axis)
    seen: Any = None
    if spec.mask == "keys":
        seen = other[0] >= 0
    elif spec.mask != "none":
        seen = other[0] == own[0]
        if spec.mask == "branches":
            seen = seen | (other[0] == own[1])
    if spec.causal:
        order = own[-1] >= other[-1]
        seen = order if seen is None else seen & order
    return jnp.where(seen, tile, hidden)


def schedule(some: Array, every: Array) -> tuple[Array, Array]:
    """Tiles to visit for each tile i of one side: those wholly visible first, which skip the mask.

    Returns:
      ``order`` [b, i, j], tiles of the other side, and ``counts`` [b, i, 2]: how many come without a mask, and in all.
    """
    every = every & some
    order = jnp.argsort(jnp.where(every, 0, jnp.where(some, 1, 2)), axis=-1, stable=True).astype(jnp.int32)
    counts = jnp.stack([jnp.sum(x, axis=-1, dtype=jnp.int32) for x in (every, some)], axis=-1)
    return order, counts


def visit(spec: Spec, counts: Any, place: tuple[Any, ...], step: Any, carry: Any, times: int = 1) -> Any:
    """Runs ``step(masked, t, carry)`` for t in turn over a schedule, each tile ``times`` times."""
    whole, total = (counts[(*place, x)] * times for x in (0, 1))
    if not spec.masks:
        return jax.lax.fori_loop(0, total, lambda t, x: step(False, t, x), carry)
    carry = jax.lax.fori_loop(0, whole, lambda t, x: step(False, t, x), carry)
    return jax.lax.fori_loop(whole, total, lambda t, x: step(True, t, x), carry)


def fetch(total: Any, stages: int, sides: list[tuple[Any, Any]]) -> None:
    """What the last warpgroup does: copies for t in turn, as slots of shared memory become free.

    ``sides`` are pairs of ``copy(t, slot)`` and the barriers by which the computing warpgroups give a slot back. All of
    these are awaited in the end, though nothing is copied then: the interpreter asks for it.
    """
    plgpu.set_max_registers(FETCH_REGISTERS, action="decrease")
    slot_of = lambda t: jax.lax.rem(t, jnp.int32(stages))  # noqa: E731

    def step(t, _):
        for copy, free in sides:
            pl.when(t >= stages)(lambda free=free: plgpu.barrier_wait(free.at[slot_of(t)]))
            copy(t, slot_of(t))

    def drain(t, _):
        for _, free in sides:
            plgpu.barrier_wait(free.at[slot_of(t)])

    jax.lax.fori_loop(0, total, step, None)
    jax.lax.fori_loop(jnp.maximum(total - stages, 0), total, drain, None)
