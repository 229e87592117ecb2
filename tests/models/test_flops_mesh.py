"""FLOPs counted from programs traced for several devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from pivot_jax.models.flops import traced_flops


def test_traced_flops_of_shards():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    assert traced_flops(jax.make_jaxpr(rows)(jnp.ones((32, 16)))) == 8 * 2 * 4 * 4 * 16
