"""How attention is split over a mesh: rows over ``data`` and ``fsdp``, heads over ``tensor``.

Attention needs no communication across rows or heads. A loop over them, or a kernel, hides this from the partitioner.
So the split is made explicit with ``jax.shard_map``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax


class Split(NamedTuple):
    """Mesh axes of rows and heads, as entries of a ``PartitionSpec``; None: not split."""

    rows: tuple[str, ...] | None
    heads: str | None
    repeat: int  # repetitions of each key/value head, after which every shard holds the heads of its queries
    alone: bool = False  # one device: nothing to split. On several, a kernel needs a shard_map even if nothing is split


def split(rows: int, heads: int, kv_heads: int) -> Split:
    """The split for the current mesh, if any. A dimension that an axis does not divide is not split."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return Split(None, None, 1, alone=True)
    sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
    over = tuple(a for a in ("data", "fsdp") if sizes.get(a, 1) > 1)
    if rows % math.prod(sizes[a] for a in over):
        over = ()
    tensor = sizes.get("tensor", 1)
    if tensor > 1 and heads % tensor == 0:
        repeat = tensor // math.gcd(kv_heads, tensor)
        if heads % (kv_heads * repeat) == 0:
            return Split(over or None, "tensor", repeat)
    return Split(over or None, None, 1)
