"""How attention is split over a mesh: rows over ``data`` and ``fsdp``, heads over ``tensor``.

Attention needs no communication across rows or heads, but a loop over them, or a kernel, hides that from the
partitioner, so the split is said explicitly with ``jax.shard_map``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax


class Split(NamedTuple):
    """Mesh axes of rows and heads, as entries of a ``PartitionSpec``; None is whole."""

    rows: tuple[str, ...] | None
    heads: str | None
    repeat: int  # how often each key/value head has to be repeated so that every shard holds its queries' head
    alone: bool = False  # one device: nothing to split. Else a kernel needs a shard_map even where all stays whole


def split(rows: int, heads: int, kv_heads: int) -> Split:
    """The split of the mesh that is set (whole without one); what an axis does not divide stays whole."""
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
