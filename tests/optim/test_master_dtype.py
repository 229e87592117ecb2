"""Weights and moments kept in bfloat16 between updates, beside PyTorch's AdamW on bfloat16 parameters."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from pivot_jax.optim.update import kept_in

WEIGHTS = np.linspace(0.05, 2.0, 64).astype(np.float32)


def ours(gradients, rate, dtype="bfloat16"):
    """Weights after AdamW's updates, as ``build_step`` makes them."""
    tx = optax.adamw(rate, b1=0.9, b2=0.95, eps=1e-5, weight_decay=0.01)
    weights = kept_in(jnp.asarray(WEIGHTS), "bfloat16")
    state = tx.init(weights)
    for gradient in gradients:
        updates, state = tx.update(jnp.asarray(gradient), state, weights)
        weights, state = kept_in(optax.apply_updates(weights, updates), dtype), kept_in(state, dtype)
    return np.asarray(weights)


def theirs(gradients, rate):
    weights = torch.nn.Parameter(torch.tensor(WEIGHTS).bfloat16())
    optimizer = torch.optim.AdamW([weights], lr=rate, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.01, foreach=False)
    for gradient in gradients:
        weights.grad = torch.tensor(gradient).bfloat16()
        optimizer.step()
    return weights.detach().float().numpy()


@pytest.mark.parametrize("rate", [5e-6, 3e-2])
def test_the_same_weights_move_as_in_pytorch(rate):
    """At MAYE's learning rate none does, although float32 weights would; at a large one all do, nearly alike."""
    gradients = np.random.default_rng(0).normal(size=(5, len(WEIGHTS))).astype(np.float32)
    gradients = np.asarray(jnp.asarray(gradients).astype(jnp.bfloat16).astype(jnp.float32))
    before = np.asarray(kept_in(jnp.asarray(WEIGHTS), "bfloat16"))
    own, other = ours(gradients, rate), theirs(gradients, rate)
    if rate < 1e-4:
        assert (own == before).all() and (other == before).all()
        assert (ours(gradients[:1], rate, "float32") != before).mean() > 0.99
    else:
        moved = np.abs(other - before)
        assert (own != before).mean() > 0.9
        np.testing.assert_allclose(own, other, atol=0.05 * moved.max(), rtol=2**-7)  # PyTorch rounds inside a step too


def test_only_float32_values_are_rounded():
    tree = {"weights": jnp.asarray([1.001], jnp.float32), "count": jnp.asarray(257, jnp.int32)}
    found = kept_in(tree, "bfloat16")
    assert float(found["weights"][0]) == 1.0 and int(found["count"]) == 257 and found["count"].dtype == jnp.int32
    assert kept_in(tree, "float32") is tree
