"""Building blocks of the Mosaic GPU kernels: settings, products on tensor cores, tile masks, lists of tiles to visit.

A program is a few warpgroups of 128 threads: all but the last compute, and the last one fetches tiles by TMA. JAX's
interpreter for these kernels simulates memory, copies and barriers. It simulates no product with an operand or a
running sum in registers, and no register layouts. Under ``Spec.interpret`` the functions here use plain ``jnp`` for
those.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pivot_jax.kernels.mask import Codes, match

Array = jax.Array
MASKED = -jnp.inf  # a score; a finite one times the rate would be off by its rounding, 1e22
LOWEST = -1e30  # start of a row's running maximum: finite, so a fully masked row gives no NaN
EMPTY = 1e30  # lse of a fully masked query: every exponential relative to it is 0
ROWS = 64  # of a tile per warpgroup: the operand of one tensor core instruction
WARPGROUPS = 2  # that compute
TILE = ROWS * WARPGROUPS
COMPUTE_REGISTERS, FETCH_REGISTERS = 240, 24  # a thread; an SM has 65536


@dataclasses.dataclass(frozen=True)
class Spec:
    """Static settings of a kernel."""

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
    """a [n, c] b [m, c]^T → [n, m] in float32, both in shared memory; ``meanwhile`` runs before the wait."""
    if spec.interpret:
        meanwhile()
        return jnp.dot(a[...], b[...].T, preferred_element_type=jnp.float32)

    def compute(acc):
        plgpu.wgmma(acc, a, b.transpose((1, 0)))
        meanwhile()
        return acc[...]

    return pl.run_scoped(compute, plgpu.ACC((a.shape[0], b.shape[0]), jnp.float32))


def add_product_and_nt(spec: Spec, accs: tuple[Array, Array], rows: tuple[Any, Any], nt: tuple[Any, Any]) -> Any:
    """One sum plus a product of ``rows``, as in :func:`add_product`; the other plus :func:`product_nt` of ``nt``."""
    if spec.interpret:
        return add_product(spec, accs[0], *rows), accs[1] + product_nt(spec, *nt)

    def compute(refs):
        plgpu.wgmma(refs[0], *rows)
        plgpu.wgmma(refs[1], nt[0], nt[1].transpose((1, 0)))

    return pl.run_state(compute)(tuple(plgpu.ACC.init(acc) for acc in accs))


def weights_and_product_nt(spec: Spec, a: Any, b: Any, to_weights: Any, x: Any, y: Any) -> tuple[Array, Array]:
    """``to_weights(product_nt(a, b))`` and ``product_nt(x, y)``, which runs at the same time as ``to_weights``."""
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
    """A vector along ``axis`` of a tile, repeated over the other axis."""
    return jax.lax.broadcast_in_dim(x, shape, [axis])


def code_arrays(spec: Spec, codes: Codes) -> tuple[list[Array], list[Array]]:
    """Operands of the mask: [b, codes, n] of the queries and [b, codes, m] of the keys, or nothing.

    Positions are among the codes and are read per tile. Column numbers would occupy registers throughout.
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


def copy_codes(arrays: Any, row: Any, tokens: Any, tiles: Any, slot: Any, ready: Any) -> None:
    """Fetches the codes of ``tokens`` into slot ``slot`` of their tiles."""
    for source, target in zip(arrays, tiles, strict=True):
        plgpu.copy_gmem_to_smem(source.at[row, :, tokens], target.at[slot], ready.at[slot])


def apply_mask(spec: Spec, tile: Array, queries: Any, keys: Any, q_axis: int, hidden: float) -> Array:
    """``tile`` where the rule of :mod:`pivot_jax.kernels.mask` makes the key visible to the query, else ``hidden``.

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
        seen = match(other[0], own[: 2 if spec.mask == "branches" else 1])
    if spec.causal:
        order = own[-1] >= other[-1]
        seen = order if seen is None else seen & order
    return jnp.where(seen, tile, hidden)


def schedule(some: Array, every: Array) -> tuple[Array, Array]:
    """Tiles to visit for each tile i of one side. Wholly visible tiles come first and skip the mask.

    Returns:
      ``order`` [b, i, j], tiles of the other side, and ``counts`` [b, i, 2]: those without a mask, and all.
    """
    every = every & some
    order = jnp.argsort(jnp.where(every, 0, jnp.where(some, 1, 2)), axis=-1, stable=True).astype(jnp.int32)
    counts = jnp.stack([jnp.sum(x, axis=-1, dtype=jnp.int32) for x in (every, some)], axis=-1)
    return order, counts


def visit(spec: Spec, counts: Any, index: tuple[Any, ...], step: Any, carry: Any, times: int = 1) -> Any:
    """Runs ``step(masked, t, carry)`` for t in turn over a schedule, each tile ``times`` times."""
    whole, total = (counts[(*index, x)] * times for x in (0, 1))
    if not spec.masks:
        return jax.lax.fori_loop(0, total, lambda t, x: step(False, t, x), carry)
    carry = jax.lax.fori_loop(0, whole, lambda t, x: step(False, t, x), carry)
    return jax.lax.fori_loop(whole, total, lambda t, x: step(True, t, x), carry)


def fetch(total: Any, stages: int, sides: list[tuple[Any, Any]]) -> None:
    """Loop of the last warpgroup: copies for each t in turn, as slots of shared memory become free.

    ``sides`` are pairs of ``copy(t, slot)`` and the barriers by which the computing warpgroups release a slot. All of
    these are awaited at the end, although nothing is copied then: the interpreter requires it.
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
