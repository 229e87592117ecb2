"""Building blocks of the forward and backward kernels: settings, a tile's scores and its mask."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pivot_jax.kernels.blocks import Visits
from pivot_jax.kernels.mask import Codes, match

Array = jax.Array
LANES = 128
MASKED = -1e30
EMPTY = 1e30  # lse of a fully masked query: every exponential relative to it is 0
_VMEM_BYTES = 100 << 20

NT = (((1,), (1,)), ((), ()))
NN = (((1,), (0,)), ((), ()))
TN = (((0,), (0,)), ((), ()))


@dataclasses.dataclass(frozen=True)
class Spec:
    """Static settings of a kernel."""

    causal: bool
    rate: float  # scale * log2 e
    mask: str  # none | keys (padding of keys only) | segments | branches
    q_block: int
    k_block: int
    interpret: bool

    @property
    def masks(self) -> bool:
        return self.causal or self.mask != "none"


def visit_tile(spec: Spec, tiles: int, visit, whole, tile) -> None:
    """Traces the tile with its mask, without it, or both, as the case requires."""
    if not spec.masks:
        pl.when(visit)(lambda: tile(False))
    elif tiles == 1:
        pl.when(visit)(lambda: tile(True))
    else:
        pl.when(visit & (whole == 1))(lambda: tile(False))
        pl.when(visit & (whole == 0))(lambda: tile(True))


def tile_scores(spec: Spec, rows: Array, columns: Array) -> Array:
    return jax.lax.dot_general(rows, columns, NT, preferred_element_type=jnp.float32) * spec.rate


def apply_mask(spec: Spec, scores, queries, keys, query_axis: int, first_q, first_k):
    """``scores`` where the rule of :mod:`pivot_jax.kernels.mask` makes the key visible to the query, else MASKED.

    Codes come as rows [1, n] for the tile's lanes and as :func:`column_of` for its rows; ``queries`` are their own and
    shared codes.
    """
    seen: Any = None
    across = lambda x: widen(x, scores.shape[1]) if x.shape[0] > 1 else x  # noqa: E731
    if spec.mask == "keys":
        seen = jnp.broadcast_to(across(keys) >= 0, scores.shape)
    elif spec.mask != "none":
        seen = match(across(keys), map(across, queries[: 2 if spec.mask == "branches" else 1]))
    if spec.causal:
        distance = jax.lax.broadcasted_iota(jnp.int32, scores.shape, query_axis) - jax.lax.broadcasted_iota(
            jnp.int32, scores.shape, 1 - query_axis
        )
        order = distance >= first_k - first_q
        seen = order if seen is None else seen & order
    return jnp.where(seen, scores, MASKED)


def column_of(row: Array) -> Array:
    """[1, n] → [n, LANES] with equal lanes."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T


def code_arrays(spec: Spec, codes: Codes, q_ids, k_ids):
    """The code arrays that the mask needs, as rows [b, 1, n], and their block specs; the keys come last."""
    row = lambda x: x[:, None]  # noqa: E731
    if spec.mask == "none":
        return [], []
    if spec.mask == "keys":
        return [row(codes.keys)], [k_ids]
    if spec.mask == "segments":
        return [row(codes.own), row(codes.keys)], [q_ids, k_ids]
    return [row(codes.own), row(codes.shared), row(codes.keys)], [q_ids, q_ids, k_ids]


def scalars(visits: Visits) -> tuple[Array, Array, Array]:
    return visits.blocks.reshape(-1), visits.count.reshape(-1), visits.whole.reshape(-1)


def compiler_params(*semantics: Any) -> Any:
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=_VMEM_BYTES)


def widen(x: Array, width: int) -> Array:
    """[n, LANES] with equal lanes → [n, width]."""
    return jnp.tile(x, (1, -(-width // LANES)))[:, :width]
