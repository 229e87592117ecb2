"""Losses that compare the rows of a batch, with the rows on eight devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pivot_jax import config as configs
from pivot_jax.objectives.pairs import PairStats
from pivot_jax.objectives.preference import combined
from pivot_jax.objectives.preference_losses import LOSSES, terms_of
from pivot_jax.parallel.mesh import AXES
from tests.tiny import pairs


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1)])
@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].couples_rows])
def test_losses_that_couple_rows_are_those_of_one_device(name, shape):
    """Sorts and means run over all devices: the same loss and gradients as of the whole batch on one."""
    rng = np.random.default_rng(0)
    batch = pairs.targets_only(rng.integers(1, 5, (16, 3)))
    batch.weights[5], batch.row_index[5] = 0, -1
    logps, ref = (-np.abs(rng.normal(2, 1, batch.weights.shape)).astype(np.float32) * batch.weights for _ in range(2))
    settings = configs.base().objective
    settings.update({"name": "preference", "terms": ((name, 1.0),)})
    terms = terms_of(settings)

    @jax.jit
    @jax.value_and_grad
    def run(logps, ref, batch):
        totals = {name: jnp.sum(LOSSES[name].weights(batch))}
        return combined(terms, PairStats(logps, ref, batch, settings), totals, None)[0]

    want = run(logps, ref, batch)
    mesh = Mesh(np.asarray(jax.devices()).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, P(("data", "fsdp")))
        got = run(*(jax.device_put(x, rows) for x in (logps, ref, batch)))
    assert len(got[1].sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), got, want)
