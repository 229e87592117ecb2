"""Preference losses against closed forms (acceptance tests A1, A2, A4 on the level of the formulas)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pivot_jax.errors import UserError
from pivot_jax.objectives import preference_losses
from pivot_jax.objectives.contrastive import sigmoid_contrastive
from pivot_jax.objectives.sft import nll

RNG = np.random.default_rng(0)
CHOSEN, REJECTED = (RNG.normal(0, 4, 7).astype(np.float32) for _ in range(2))


def test_A1_at_the_reference_dpo_is_ln_2():
    zero = jnp.zeros(3)
    np.testing.assert_allclose(preference_losses.sigmoid(zero, zero, 0.1), np.log(2), atol=1e-6)


def test_A2_gradient_is_minus_beta_sigma_of_minus_beta_delta():
    grads = jax.grad(lambda c, r: jnp.sum(preference_losses.sigmoid(c, r, 0.3)), (0, 1))(CHOSEN, REJECTED)
    factor = -0.3 * jax.nn.sigmoid(-0.3 * (CHOSEN - REJECTED))
    np.testing.assert_allclose(grads[0], factor, rtol=1e-5)
    np.testing.assert_allclose(grads[1], -factor, rtol=1e-5)


def test_dpo_and_label_smoothing_equal_pytorch():
    d = torch.tensor(0.1 * (CHOSEN - REJECTED))
    np.testing.assert_allclose(preference_losses.sigmoid(CHOSEN, REJECTED, 0.1), -F.logsigmoid(d), rtol=1e-5)
    smoothed = -0.8 * F.logsigmoid(d) - 0.2 * F.logsigmoid(-d)
    np.testing.assert_allclose(preference_losses.sigmoid(CHOSEN, REJECTED, 0.1, 0.2), smoothed, rtol=1e-5)


def test_bco_equals_pytorch():
    delta = 0.7
    c, r = torch.tensor(0.1 * CHOSEN), torch.tensor(0.1 * REJECTED)
    expected = -F.logsigmoid(c - delta) - F.logsigmoid(-(r - delta))
    np.testing.assert_allclose(preference_losses.bco(CHOSEN, REJECTED, 0.1, delta), expected, rtol=1e-5)


def test_A4_mpo_is_composed_of_08_02_10():
    section = {"name": "mpo", "gamma": 0.0}
    assert preference_losses.mixture(section) == preference_losses.Mixture(sigmoid=0.8, bco=0.2, nll=1.0)
    assert preference_losses.mixture({"name": "dpo", "gamma": 0.0}) == preference_losses.Mixture(1.0, 0.0, 0.0)
    assert preference_losses.mixture({"name": "dpo", "gamma": 0.5}).nll == 0.5
    with pytest.raises(UserError, match="there are: dpo, mpo"):
        preference_losses.mixture({"name": "sft", "gamma": 0.0})


def test_A4_delta_is_the_running_mean_of_all_rewards():
    state, seen = preference_losses.RewardMean.zero(), []
    for batch in ([1.0, 3.0], [5.0], [2.0, 2.0, 8.0]):
        seen += batch
        state = state.update(sum(batch), float(len(batch)))
        np.testing.assert_allclose(state.mean, np.mean(seen), rtol=1e-6)


def test_nll_is_a_sum_with_its_weight():
    term = nll(jnp.asarray([[-1.0, -2.0], [-3.0, -9.0]]), jnp.asarray([[1.0, 1.0], [1.0, 0.0]]))
    assert (float(term.sum), float(term.weight), float(term.mean())) == (6.0, 3.0, 2.0)


def test_siglip_loss_equals_the_double_sum():
    image, text = (RNG.normal(size=(5, 4)).astype(np.float32) for _ in range(2))
    valid = np.array([1, 1, 1, 1, 0], np.float32)
    term = sigmoid_contrastive(image, text, 3.0, -1.0, valid)
    total = 0.0
    for i in range(4):
        for j in range(4):
            z = (1 if i == j else -1) * (3.0 * float(image[i] @ text[j]) - 1.0)
            total += np.log1p(np.exp(-z))
    np.testing.assert_allclose(term.mean(), total / 4, rtol=1e-5)
