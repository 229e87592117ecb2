"""Vocabulary-chunked log-probs against full logits."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pivot_jax.kernels.token_logprobs import token_logprobs
from pivot_jax.parallel.mesh import AXES


def draw(tokens=13, width=16, vocabulary=1003, dtype=np.float32):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(tokens, width)), dtype)
    head = jnp.asarray(rng.normal(size=(vocabulary, width)), jnp.float32)
    return hidden, head, jnp.asarray(rng.integers(0, vocabulary, tokens)), jnp.asarray(rng.normal(size=tokens))


@pytest.mark.parametrize("chunk", [64, 256, 1003, 4096])
def test_values_and_gradients_equal_full_logits(chunk):
    hidden, head, targets, cotangent = draw()

    def full(hidden, head):
        logps = jax.nn.log_softmax(hidden @ head.T)
        return jnp.sum(logps[jnp.arange(len(targets)), targets] * cotangent)

    def chunked(hidden, head):
        return jnp.sum(token_logprobs(hidden, head, targets, chunk).logps * cotangent)

    want, want_grads = jax.value_and_grad(full, (0, 1))(hidden, head)
    got, got_grads = jax.value_and_grad(chunked, (0, 1))(hidden, head)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for a, b in zip(got_grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6)


def test_entropy_accuracy_and_mean_logit():
    hidden, head, targets, _ = draw()
    logits = np.asarray(hidden @ head.T, np.float64)
    best = logits.argmax(1)
    targets = targets.at[:5].set(jnp.asarray(best[:5]))
    stats = token_logprobs(hidden, head, targets, 100)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(stats.entropy, -(p * np.log(p)).sum(1), atol=2e-5)
    np.testing.assert_allclose(stats.mean_logit, logits.mean(1), atol=1e-5)
    np.testing.assert_array_equal(stats.correct, np.asarray(targets) == best)


def test_bfloat16_inputs_keep_float32_logprobs():
    hidden, head, targets, _ = draw(dtype=jnp.bfloat16)
    exact = token_logprobs(hidden.astype(jnp.float32), head.astype(jnp.bfloat16).astype(jnp.float32), targets)
    rounded = token_logprobs(hidden, head, targets, 128)
    assert rounded.logps.dtype == jnp.float32
    np.testing.assert_allclose(rounded.logps, exact.logps, atol=2e-5)


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 4, 2)])
@pytest.mark.parametrize("tokens", [16, 13])  # 13: rows that no mesh axis divides
def test_every_mesh_gives_the_same(shape, tokens):
    """1,008 rows of the head over tensor 2 and 8 are chunks of 100 with a last one that overlaps."""
    hidden, head, targets, cotangent = draw(tokens, vocabulary=1008)
    mesh = Mesh(np.asarray(jax.devices()).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)

    def loss(hidden, head):
        stats = token_logprobs(hidden, head, targets, 100)
        return jnp.sum(stats.logps * cotangent), stats

    run = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (_, want), want_grads = jax.jit(run)(hidden, head)
    with jax.set_mesh(mesh):
        placed = jax.device_put(head, NamedSharding(mesh, P("tensor", "fsdp")))
        (_, got), got_grads = jax.jit(run)(hidden, placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), got, want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), got_grads, want_grads)


def test_no_device_gathers_the_head():
    """What crosses devices in the forward and backward pass is smaller than the head."""
    hidden, head, targets, _ = draw(16, width=32, vocabulary=4096)
    mesh = Mesh(np.asarray(jax.devices()).reshape(1, 4, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        placed = jax.device_put(head, NamedSharding(mesh, P("tensor", "fsdp")))
        step = jax.jit(jax.grad(lambda h, w: token_logprobs(h, w, targets, 256).logps.sum(), (0, 1)))
        text = step.lower(hidden, placed).compile().as_text()
    shapes = re.findall(r"= f32\[([\d,]+)\]\S* (?:all-gather|all-reduce|reduce-scatter)", text)
    assert shapes
    assert max(math.prod(map(int, shape.split(","))) for shape in shapes) <= 256 * 32


@pytest.mark.parametrize(("head", "targets"), [((10, 9), 4), ((10, 8), 3)])
def test_shapes_that_do_not_fit_are_said(head, targets):
    with pytest.raises(ValueError, match=r"needs hidden \[t,d\], head \[v,d\] and targets \[t\]; got \(4, 8\)"):
        token_logprobs(jnp.zeros((4, 8)), jnp.zeros(head), jnp.zeros(targets, int))
