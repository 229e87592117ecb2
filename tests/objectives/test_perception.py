"""Perception-aware RL: damaged images, weights of tokens, PAPO's term."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.perception import (
    TOKEN_WEIGHTS,
    divergence,
    masked_image,
    needs_masked_view,
    noise_level,
    noised_image,
)
from tests.tiny.responses import Layout, loss_of

MASK = np.arange(5) < np.asarray([[5], [2], [4]])


def test_a_masked_image_lacks_whole_squares_of_14_pixels():
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (300, 290, 3)).astype(np.uint8)
    out = masked_image(pixels, 0.6, rng)
    black = (out == 0).all(-1)
    np.testing.assert_array_equal(out[~black], pixels[~black])
    squares = [black[y : y + 14, x : x + 14] for y in range(0, 300, 14) for x in range(0, 290, 14)]
    assert all(one.all() or not one.any() for one in squares)
    share = np.mean([one.all() for one in squares])
    assert abs(share - 0.6) < 4 * math.sqrt(0.24 / len(squares))
    np.testing.assert_array_equal(masked_image(pixels, 0.0, rng), pixels)
    assert not masked_image(pixels, 1.0, rng).any()


def test_the_noise_decays_from_its_start_to_nothing():
    """NoisyRollout's setting: 500 at first, half of it at step 40 of 60, nothing at the end."""
    levels = [noise_level(Algorithm(), step, 60) for step in range(61)]
    assert levels[0] == 499
    assert levels[40] == 250
    assert levels[60] == 0
    assert levels == sorted(levels, reverse=True)
    assert noise_level(Algorithm(), 30, 60) == int(500 * (1 - 1 / (1 + math.exp(-30 * (30 - 40) / 60))))


def test_a_noised_image_has_the_mean_and_variance_of_the_diffusion_step():
    """At step 250 ᾱ is the product of the first 251 factors; at step 0 the image is nearly itself."""
    rng = np.random.default_rng(1)
    pixels = np.full((200, 200, 3), 128, np.uint8)
    kept = 1.0
    for s in range(251):
        kept *= 1 - (1e-5 + (0.005 - 1e-5) / (1 + math.exp(6 - 12 * s / 999)))
    out = noised_image(pixels, 250, rng) / 255
    np.testing.assert_allclose(out.mean(), math.sqrt(kept) * 128 / 255, atol=0.003)
    np.testing.assert_allclose(out.std(), math.sqrt(1 - kept), atol=0.003)
    assert 0.1 < math.sqrt(1 - kept) < 0.2, "the clip would change the moments"
    assert np.abs(noised_image(pixels, 0, rng).astype(int) - 128).max() < 10


def test_vppo_selects_and_scales_by_dependency():
    """40 % of 5, 2 and 4 tokens: 2, 1 and 2. Mean dependencies become scales with the mean 1 and the minimum 0.9."""
    rng = np.random.default_rng(2)
    old, masked = -rng.exponential(size=(2, *MASK.shape))
    weights = TOKEN_WEIGHTS["vppo"](old, masked, None, MASK)
    d = masked - old
    dependency = np.minimum(np.exp(d) - d - 1, 10)
    for row, count in enumerate((2, 1, 2)):
        chosen = np.flatnonzero(weights[row])
        tokens = np.flatnonzero(MASK[row])
        assert sorted(chosen) == sorted(tokens[np.argsort(-dependency[row, tokens])][:count])
        assert len(set(np.round(weights[row, chosen], 9))) == 1
    scales = weights.max(1)
    means = np.asarray([dependency[row][MASK[row]].mean() for row in range(3)])
    u = (means - means.min()) / np.ptp(means)
    np.testing.assert_allclose(scales, 0.9 + 0.1 * u / u.mean(), atol=1e-5)
    np.testing.assert_allclose([scales.min(), scales.mean()], [0.9, 1.0], atol=1e-5)


def test_vppo_does_not_scale_where_no_response_depends_more_than_another():
    weights = TOKEN_WEIGHTS["vppo"](np.zeros(MASK.shape), np.zeros(MASK.shape), None, MASK)
    np.testing.assert_array_equal(weights.sum(1), [2, 1, 2])


def test_tor_weights_entropy_before_dependency():
    old = np.zeros((1, 4))
    masked = np.asarray([[0.1, -3.0, 0.2, -1.0]])
    entropy = np.asarray([[0.1, 0.2, 0.9, 0.8]])
    weights = TOKEN_WEIGHTS["tor"](old, masked, entropy, np.ones((1, 4), bool))
    np.testing.assert_array_equal(weights, [[0, 0.5, 1, 1]])


def test_papo_adds_the_divergence_from_the_masked_view():
    """The loss falls by γ times its mean; the gradient in log π is that of e^d - d - 1, d = ℓ_masked - ℓ."""
    rng = np.random.default_rng(3)
    logps, masked = (-rng.exponential(0.4, size=(2, *MASK.shape))).astype(np.float32)
    a = np.where(MASK, rng.normal(size=(3, 1)), 0)
    layout = Layout((5, 2, 4))
    base = loss_of(Algorithm(), layout, logps, advantages=a)
    got = loss_of(Algorithm(perception_coefficient=0.02), layout, logps, advantages=a, masked_logps=masked)
    d = masked - logps
    k3 = np.where(MASK, np.exp(d) - d - 1, 0)
    np.testing.assert_allclose(got[0], base[0] - 0.02 * k3.sum() / MASK.sum(), atol=1e-6)
    np.testing.assert_allclose(got[1], base[1] - 0.02 * np.where(MASK, 1 - np.exp(d), 0) / MASK.sum(), atol=1e-6)
    np.testing.assert_allclose(got[3]["perception_kl"], k3.sum() / MASK.sum(), atol=1e-5)
    assert float(divergence(-30.0, -1.0)) == 10


@pytest.mark.parametrize(
    ("algorithm", "needed"),
    [(Algorithm(), False), (Algorithm(token_weights="vppo"), True), (Algorithm(perception_coefficient=0.01), True)],
)
def test_the_masked_view_is_scored_only_where_it_is_read(algorithm, needed):
    assert needs_masked_view(algorithm) == needed
