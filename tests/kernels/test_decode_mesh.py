"""Decode attention on meshes of eight devices, compared with the dense reference in float64."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from pivot_jax.kernels import shards
from pivot_jax.parallel.mesh import AXES
from tests.kernels.test_decode import FAST, draw, expected, run


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8)])
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.heavy_after(3)
def test_decode_on_a_mesh_equals_the_reference(backend, shape):
    """8 prompts, which all row shards divide with their responses; 2 key heads, which 4 and 8 tensor shards do not."""
    arguments = draw(8, 2, (8, 2), 8, (9, 17))
    mesh = Mesh(np.asarray(jax.devices()).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        got = np.asarray(run(*arguments, backend=backend))
    np.testing.assert_allclose(got, expected(*arguments), atol=2e-6)


@pytest.mark.parametrize("prompts", [3, 4])
def test_rows_are_split_by_whole_groups_only(prompts):
    """4 shards of rows: 4 prompts are split. 3 prompts are not, although their 12 rows could be."""
    arguments = draw(prompts, 4, (2, 2), 8, (3, 5))
    mesh = Mesh(np.asarray(jax.devices()[:4]).reshape(4, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        assert shards.split(prompts, 4, 2).rows == (("data",) if prompts == 4 else None)
        got = np.asarray(run(*arguments, backend="xla"))
    np.testing.assert_allclose(got, expected(*arguments), atol=2e-6)
