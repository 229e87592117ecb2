"""Vocabulary-chunked log-probs on meshes of eight devices."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pivot_jax.kernels.token_logprobs import PLAIN, Distribution, token_logprobs
from pivot_jax.parallel.mesh import AXES
from tests.kernels.test_token_logprobs import draw


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 4, 2)])
@pytest.mark.parametrize("tokens", [16, 13])  # 13: a number of rows that no mesh axis divides
@pytest.mark.parametrize("distribution", [PLAIN, Distribution(1.7, (3, 5, 1007))])
@pytest.mark.heavy_after(6)
def test_values_and_gradients_on_a_mesh_equal_those_of_one_device(shape, tokens, distribution):
    """With 1,008 rows of the head over tensor 2 and 8, the last chunk of 100 overlaps the one before."""
    hidden, head, targets, cotangent = draw(tokens, vocabulary=1008)
    assert not set(distribution.banned_ids) & set(np.asarray(targets).tolist())
    mesh = Mesh(np.asarray(jax.devices()).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)

    def loss(hidden, head):
        entropy = distribution != PLAIN
        stats = token_logprobs(hidden, head, targets, 100, distribution, entropy_gradient=entropy, squares=True)
        return jnp.sum((stats.logps + stats.entropy) * cotangent), stats

    run = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (_, want), want_grads = jax.jit(run)(hidden, head)
    with jax.set_mesh(mesh):
        placed = jax.device_put(head, NamedSharding(mesh, P("tensor", "fsdp")))
        (_, got), got_grads = jax.jit(run)(hidden, placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), got, want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), got_grads, want_grads)


def test_no_device_gathers_the_whole_head():
    """Every array that devices exchange in the forward and backward pass is smaller than the head."""
    hidden, head, targets, _ = draw(16, width=32, vocabulary=4096)
    mesh = Mesh(np.asarray(jax.devices()).reshape(1, 4, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        placed = jax.device_put(head, NamedSharding(mesh, P("tensor", "fsdp")))
        step = jax.jit(jax.grad(lambda h, w: token_logprobs(h, w, targets, 256).logps.sum(), (0, 1)))
        text = step.lower(hidden, placed).compile().as_text()
    shapes = re.findall(r"= f32\[([\d,]+)\]\S* (?:all-gather|all-reduce|reduce-scatter)", text)
    assert shapes
    assert max(math.prod(map(int, shape.split(","))) for shape in shapes) <= 256 * 32
