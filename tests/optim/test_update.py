"""The norm of the gradient."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.models.stacking import Layers
from pivot_jax.optim.update import global_norm

VOCABULARY = (60_000, 32)


def test_the_norm_is_that_of_all_values():
    random = np.random.default_rng(0)
    shapes = {"embed": VOCABULARY, "bias": (7,), "scale": (), "kernel": (2, 3, 5)}
    tree = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    layers = Layers(random.standard_normal((2, 4, 4)).astype(np.float32))
    values = np.concatenate([np.ravel(x).astype(np.float64) for x in (*tree.values(), *layers)])
    found = jax.jit(global_norm)(jax.tree.map(jnp.asarray, tree | {"layers": layers}))
    np.testing.assert_allclose(float(found), np.sqrt((values**2).sum()), rtol=1e-6)


def test_no_large_array_is_summed_to_one_number_at_once():
    """On CPUs such a sum depends on which threads are free, and clipping passes that on to the parameters."""
    text = jax.jit(global_norm).lower({"embed": jnp.ones(VOCABULARY)}).compile().as_text()
    sums = re.findall(r"f32\[(?:\d*)\]\S* reduce\(.*dimensions=\{([\d,]*)\}", text)
    assert sorted(sums) == ["0", "1"], text
