"""Perception-aware RL: damaged images, weights of tokens, PAPO's term."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.perception import (
    TOKEN_WEIGHTS,
    Tokens,
    divergence,
    masked_image,
    needs_masked_view,
    needs_similarity,
    noise_level,
    noised_image,
)
from tests.tiny.responses import Layout, loss_of

NOTHING = np.zeros((3, 5))
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
    weights = TOKEN_WEIGHTS["vppo"].function(Tokens(MASK, old, NOTHING, masked))
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
    weights = TOKEN_WEIGHTS["vppo"].function(Tokens(MASK, NOTHING, NOTHING, NOTHING))
    np.testing.assert_array_equal(weights.sum(1), [2, 1, 2])


def test_tor_weights_entropy_before_dependency():
    old = np.zeros((1, 4))
    masked = np.asarray([[0.1, -3.0, 0.2, -1.0]])
    entropy = np.asarray([[0.1, 0.2, 0.9, 0.8]])
    weights = TOKEN_WEIGHTS["tor"].function(Tokens(np.ones((1, 4), bool), old, entropy, masked))
    np.testing.assert_array_equal(weights, [[0, 0.5, 1, 1]])


def pepo_of_one(similarity, entropy, share):
    """PEPO's weights of one response, token by token."""

    def between_0_and_1(values):
        low, high = min(values), max(values)
        return [(v - low) / (high - low) if high > low else 0.0 for v in values]

    sums = [s + h for s, h in zip(between_0_and_1(similarity), between_0_and_1(entropy), strict=True)]
    centre = sum(sums) / len(sums)
    powers = [math.exp((1 + 0.05 * math.tanh(one - centre)) * s) for one, s in zip(sums, similarity, strict=True)]
    return [1 - share + share * len(powers) * power / sum(powers) for power in powers]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_pepo_weighs_by_similarity_to_the_image_gated_by_entropy(share):
    """The paper's formula per response; values after its end have no effect; equal weights at λ = 0."""
    rng = np.random.default_rng(4)
    similarity, entropy = rng.uniform(-0.9, 0.9, MASK.shape), rng.exponential(size=MASK.shape)
    tokens = Tokens(MASK, NOTHING, entropy, similarity=similarity, progress=share)
    weights = TOKEN_WEIGHTS["pepo"].function(tokens)
    for row, length in enumerate((5, 2, 4)):
        expected = pepo_of_one(list(similarity[row, :length]), list(entropy[row, :length]), share)
        np.testing.assert_allclose(weights[row, :length], expected, rtol=1e-12)
        assert not weights[row, length:].any()
        assert weights[row].sum() == pytest.approx(length) and (np.ptp(weights[row, :length]) > 0.1) == (share > 0)
    other = Tokens(MASK, NOTHING, entropy + ~MASK, similarity=similarity - ~MASK, progress=share)
    np.testing.assert_array_equal(TOKEN_WEIGHTS["pepo"].function(other), weights)


def test_pepo_gives_more_weight_to_entropy_where_tokens_see_the_same():
    """The gate: of two tokens that see the image equally well, the one with the larger entropy weighs more."""
    mask = np.ones((1, 3), bool)
    similarity, entropy = np.asarray([[0.5, 0.5, 0.1]]), np.asarray([[2.0, 0.1, 1.0]])
    first, second, third = TOKEN_WEIGHTS["pepo"].function(
        Tokens(mask, np.zeros((1, 3)), entropy, similarity=similarity, progress=1.0)
    )[0]
    assert first > second > third


def test_pepo_leaves_responses_without_images_and_empty_rows_alone():
    mask = np.asarray([[True, True, False], [False, False, False]])
    entropy = np.asarray([[0.3, 2.0, 0.0], [0.0, 0.0, 0.0]])
    tokens = Tokens(mask, np.zeros((2, 3)), entropy, similarity=np.zeros((2, 3)), progress=0.7)
    np.testing.assert_allclose(TOKEN_WEIGHTS["pepo"].function(tokens), [[1, 1, 0], [0, 0, 0]], rtol=1e-12)


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
    [
        (Algorithm(), (False, False)),
        (Algorithm(token_weights="vppo"), (True, False)),
        (Algorithm(perception_coefficient=0.01), (True, False)),
        (Algorithm(token_weights="pepo"), (False, True)),
        (Algorithm(token_weights="pepo", perception_coefficient=0.01), (True, True)),
    ],
)
def test_masked_view_and_similarity_are_computed_only_where_they_are_read(algorithm, needed):
    assert (needs_masked_view(algorithm), needs_similarity(algorithm)) == needed
