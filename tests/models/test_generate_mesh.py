"""Generation on meshes of eight devices."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from pivot_jax.models.generate import Sampling, _generate, generate
from pivot_jax.parallel.mesh import AXES, param_shardings, place_batch
from tests.models.test_generate import NEW, NO_END, VOCAB, prompts
from tests.tiny import mllm


@pytest.mark.parametrize("shape", [(2, 2, 2), pytest.param((1, 2, 4), marks=pytest.mark.heavy)])
def test_answers_on_a_mesh_equal_those_of_one_device(shape):
    """Rows and heads are split; 2 key/value heads over tensor 4 are not. No step gathers the answers' cache."""
    module, params = mllm.tiny_mllm(VOCAB, gain=2.0)
    batch = prompts([6, 9, 7, 5])
    wanted = generate(module, params, batch, Sampling(NEW, NO_END), responses=2)
    mesh = Mesh(np.asarray(jax.devices()).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        placed = jax.tree.map(jax.device_put, params, param_shardings(params, mesh))
        batch = place_batch(batch, mesh)
        found = generate(module, placed, batch, Sampling(NEW, NO_END), responses=2)
        arguments = placed, batch, jnp.asarray(NO_END), 0, 0.0, jax.random.key(0), None
        text = _generate.lower(module, NEW, 2, False, *arguments).compile().as_text()
    assert np.array_equal(found.tokens, wanted.tokens)
    np.testing.assert_allclose(found.logps, wanted.logps, atol=2e-5)
    assert "all-gather(" in text and not re.search(rf"f32\[[\d,]+,{NEW},\d+\]\S* all-(gather|to-all)\(", text)
