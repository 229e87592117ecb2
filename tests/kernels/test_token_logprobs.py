"""Vocabulary-chunked log-probs, compared with full logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.kernels.token_logprobs import Distribution, token_logprobs


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


SAMPLED = Distribution(temperature=0.6, banned_ids=(7, 8, 9, 500, 1002, 7))


def sampled(hidden, head):
    """Full logits of :data:`SAMPLED`, float32 [t, v]."""
    logits = hidden @ head.T / SAMPLED.temperature
    return logits.at[:, jnp.asarray(SAMPLED.banned_ids)].set(-1e30)


def entropy(logits):
    logps = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(logps) * logps, axis=1)


@pytest.mark.parametrize("chunk", [3, 100, 1003, 4096])
def test_values_and_gradients_of_a_sampling_distribution_equal_full_logits(chunk):
    """With chunks of 3 the banned tokens 7 to 9 fill most of one chunk, with 1002 the last entry of the vocabulary."""
    hidden, head, targets, cotangent = draw()
    targets = jnp.where(jnp.isin(targets, jnp.asarray(SAMPLED.banned_ids)), 11, targets)

    def full(hidden, head):
        logits = sampled(hidden, head)
        logps = jax.nn.log_softmax(logits)[jnp.arange(len(targets)), targets]
        return jnp.sum(logps * cotangent) + jnp.sum(entropy(logits) * cotangent[::-1]), (logps, entropy(logits))

    def chunked(hidden, head):
        stats = token_logprobs(hidden, head, targets, chunk, SAMPLED, entropy_gradient=True)
        return jnp.sum(stats.logps * cotangent) + jnp.sum(stats.entropy * cotangent[::-1]), (stats.logps, stats.entropy)

    (_, want), want_grads = jax.value_and_grad(full, (0, 1), has_aux=True)(hidden, head)
    (_, got), got_grads = jax.value_and_grad(chunked, (0, 1), has_aux=True)(hidden, head)
    for a, b in zip((*got, *got_grads), (*want, *want_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)


def test_banned_tokens_have_probability_zero_and_no_gradient():
    hidden, head, targets, _ = draw()
    grads = jax.grad(lambda h: token_logprobs(hidden, h, targets.at[0].set(11), 64, SAMPLED).logps[0])(head)
    np.testing.assert_array_equal(np.asarray(grads)[list(SAMPLED.banned_ids)], 0)
    banned = token_logprobs(hidden, head, targets.at[0].set(8), 64, SAMPLED)
    assert banned.logps[0] == -np.inf
    assert np.isfinite(banned.logps[1:]).all()
    kept = jnp.delete(sampled(hidden, head), jnp.asarray(SAMPLED.banned_ids), axis=1)
    np.testing.assert_allclose(banned.mean_logit, kept.mean(1), atol=1e-5)


def test_a_chunk_of_banned_tokens_alone_changes_nothing():
    hidden, head, targets, _ = draw(vocabulary=12)
    first = Distribution(banned_ids=(0, 1, 2, 3))
    targets = 4 + targets % 8
    got, want = (
        token_logprobs(hidden, h, t, 4, d)
        for h, t, d in ((head, targets, first), (head[4:], targets - 4, Distribution()))
    )
    np.testing.assert_allclose(got.logps, want.logps, atol=1e-6)
    np.testing.assert_allclose(got.entropy, want.entropy, atol=1e-6)


def test_the_entropy_carries_no_gradient_unless_asked_for():
    hidden, head, targets, _ = draw()
    grads = jax.grad(lambda h: token_logprobs(h, head, targets, 64).entropy.sum())(hidden)
    np.testing.assert_array_equal(grads, 0)


def test_banned_ids_outside_the_vocabulary_and_temperature_0_raise_an_error():
    hidden, head, targets, _ = draw()
    with pytest.raises(ValueError, match=r"banned ids \(3, 1003\) are not all in the vocabulary of 1003"):
        token_logprobs(hidden, head, targets, 64, Distribution(banned_ids=(1003, 3)))
    with pytest.raises(ValueError, match="temperature 0 is not above 0"):
        Distribution(temperature=0)


@pytest.mark.parametrize(("chunk", "distribution"), [(3, Distribution()), (100, SAMPLED), (4096, Distribution())])
def test_the_log_sum_of_squared_probabilities_equals_full_logits(chunk, distribution):
    hidden, head, targets, _ = draw()
    logits = sampled(hidden, head) if distribution is SAMPLED else hidden @ head.T
    squares = np.asarray(jax.nn.log_softmax(logits), np.float64) * 2
    found = token_logprobs(hidden, head, targets, chunk, distribution, squares=True)
    np.testing.assert_allclose(found.log_sum_sq, np.log(np.exp(squares).sum(1)), atol=1e-5)
    plain = token_logprobs(hidden, head, targets, chunk, distribution)
    assert plain.log_sum_sq is None
    np.testing.assert_array_equal(found.logps, plain.logps)
    np.testing.assert_array_equal(found.entropy, plain.entropy)
    grads = jax.grad(lambda h: token_logprobs(h, head, targets, chunk, squares=True).log_sum_sq.sum())(hidden)
    np.testing.assert_array_equal(grads, 0)
