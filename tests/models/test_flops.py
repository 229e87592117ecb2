"""FLOPs counted from traced programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pivot_jax.models.flops import traced_flops


def test_traced_flops_of_loops_and_branches():
    def f(x, w):
        x, _ = jax.lax.scan(lambda x, w: (x @ w, None), x, w)
        return jax.checkpoint(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ w[0], lambda x: x, x))(x)

    x, w = jnp.ones((4, 8)), jnp.ones((3, 8, 8))
    assert traced_flops(jax.make_jaxpr(f)(x, w)) == (3 + 1) * 2 * 4 * 8 * 8
