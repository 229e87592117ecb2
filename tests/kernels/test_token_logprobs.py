"""Vocabulary-chunked log-probs, compared with full logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.kernels.token_logprobs import token_logprobs


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


@pytest.mark.parametrize(("head", "targets"), [((10, 9), 4), ((10, 8), 3)])
def test_shapes_that_do_not_fit_raise_an_error_that_names_them(head, targets):
    with pytest.raises(ValueError, match=r"needs hidden \[t,d\], head \[v,d\] and targets \[t\]; got \(4, 8\)"):
        token_logprobs(jnp.zeros((4, 8)), jnp.zeros(head), jnp.zeros(targets, int))
