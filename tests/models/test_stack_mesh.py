"""Remat on a mesh of several devices."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from pivot_jax.parallel.mesh import AXES
from tests.models.test_stack import flops_of_gradients


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.heavy_after(1)
def test_dots_recomputes_no_product_on_a_mesh(scan_layers):
    """Neither the matmuls nor attention, which is inside a ``shard_map`` there."""
    mesh = Mesh(np.reshape(jax.devices()[:4], (1, 4, 1)), AXES, axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        none, dots, full = (flops_of_gradients(remat, scan_layers) for remat in ("none", "dots", "full"))
    assert none == dots < full
