"""Intervals and tests against closed forms and scipy, and their coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from pivot_jax.eval import statistics


def test_bootstrap_mean_matches_the_normal_interval():
    values = np.random.default_rng(0).normal(2.0, 1.0, 2000)
    found = statistics.mean(values, draws=4000)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)
    assert found == statistics.mean(values, draws=4000) and found != statistics.mean(values, draws=4000, seed=1)


def test_chunks_of_draws_are_whole():
    values = np.random.default_rng(1).random(3000)
    assert statistics.draw_sums(values, draws=1500).shape == (1500,)
    assert statistics.draw_sums(values, draws=1500).mean() == pytest.approx(values.sum(), rel=0.01)


def test_agrees_with_scipy_bootstrap():
    values = (np.random.default_rng(2).random(300) < 0.7).astype(float)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", random_state=0)
    ours = statistics.mean(values, draws=4000)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.006)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.006)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (7, 20), (20, 20)])
def test_wilson_equals_scipy(k, n):
    theirs = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    ours = statistics.wilson(k, n)
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high, abs=1e-12))


def test_all_right_is_no_certainty():
    found = statistics.mean(np.ones(20))
    assert found.value == found.high == 1.0 and found.low < 0.9 and found.method == "wilson"


def test_clusters_widen_the_interval():
    values = np.repeat((np.random.default_rng(3).random(100) < 0.5).astype(float), 10)
    alone, clustered = statistics.mean(values), statistics.mean(values, units=np.repeat(np.arange(100), 10))
    assert clustered.n == 100 and alone.n == 1000
    assert (clustered.high - clustered.low) == pytest.approx(np.sqrt(10) * (alone.high - alone.low), rel=0.15)


def test_paired_difference_is_narrower_than_two_intervals():
    generator = np.random.default_rng(4)
    difficulty = generator.random(500)
    first = (difficulty < 0.62).astype(float)
    second = (difficulty < 0.58).astype(float)
    gap = statistics.difference(first, second)
    assert gap.value == pytest.approx(first.mean() - second.mean()) and gap.excludes_zero
    assert gap.high - gap.low < 0.5 * (statistics.mean(first).high - statistics.mean(first).low)
    assert statistics.difference(first, first).low == statistics.difference(first, first).high == 0.0


def test_over_seeds_covers_the_methods_mean():
    """Seed effect and item noise: 95 % intervals of 8 seeds hold the true mean in about 95 % of the trials."""
    hits, alone = 0, 0
    for trial in range(150):
        generator = np.random.default_rng(trial)
        values = generator.normal(0, 0.5, (8, 1)) + generator.normal(0, 1.0, (8, 60)) + generator.normal(0, 0.3, 60)
        found = statistics.over_seeds(values, draws=400, seed=trial)
        hits += found.low <= 0 <= found.high
        items_only = statistics.mean(values.mean(0), draws=400, seed=trial)
        alone += items_only.low <= 0 <= items_only.high
    assert hits / 150 > 0.87 > alone / 150


def test_crossed_of_means_equals_over_seeds():
    values = np.random.default_rng(6).normal(0.3, 1, (4, 80)) + np.array([[0.0], [0.4], [-0.3], [0.1]])
    sums = np.stack([values, np.ones_like(values)], axis=-1)
    found = statistics.crossed(sums, lambda drawn: drawn[..., 0] / drawn[..., 1], draws=4000)
    plain = statistics.over_seeds(values, draws=4000)
    assert found.value == pytest.approx(plain.value)
    assert (found.low, found.high) == (pytest.approx(plain.low, abs=0.03), pytest.approx(plain.high, abs=0.03))


def test_crossed_paired_difference():
    first = np.random.default_rng(7).random((2, 50))
    pair = np.stack([first + 0.1, first], axis=-1)
    gap = statistics.crossed(pair, lambda drawn: (drawn[..., 0] - drawn[..., 1]) / 50)
    assert gap.value == pytest.approx(0.1) and gap.low == pytest.approx(0.1) and gap.n == 50


def test_over_seeds_of_one_seed_is_the_plain_interval():
    values = np.random.default_rng(5).random(200)
    one, plain = statistics.over_seeds(values[None]), statistics.mean(values)
    assert (one.low, one.high) == (pytest.approx(plain.low), pytest.approx(plain.high))
    assert statistics.over_seeds(np.ones((3, 20))) == statistics.mean(np.ones(20))
    paired = statistics.over_seeds(values[None], units=np.arange(200) // 2)
    assert paired.n == 100 and paired.value == pytest.approx(values.mean())


def test_seed_spread():
    centre, spread = statistics.seed_spread(np.array([[1.0, 1.0], [3.0, 3.0]]))
    assert centre == 2.0 and spread == pytest.approx(np.sqrt(2)) and statistics.seed_spread(np.ones(4)) == (1.0, 0.0)


def test_mcnemar_closed_form():
    first = np.array([1] * 9 + [0] * 1 + [1] * 40, bool)
    second = np.array([0] * 9 + [1] * 1 + [1] * 40, bool)
    # 9 against 1 of 10 discordant: 2 * (1 + 10) / 2^10
    assert statistics.mcnemar(first, second) == pytest.approx(22 / 1024)
    assert statistics.mcnemar(first, first) == 1.0


@pytest.mark.parametrize("n", [9, 40])
def test_permutation_agrees_with_scipy(n):
    generator = np.random.default_rng(n)
    first, second = generator.normal(0.4, 1, n), generator.normal(0, 1, n)
    theirs = scipy.stats.permutation_test(
        (first, second),
        lambda x, y, axis: (x - y).mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20000,
        rng=np.random.default_rng(0),
    ).pvalue
    assert statistics.permutation(first, second) == pytest.approx(theirs, abs=1e-9 if n == 9 else 0.01)
    assert statistics.permutation(first, first) == 1.0


def test_permutation_of_signs_equals_mcnemar():
    first = np.array([1] * 9 + [0] * 2 + [1] * 10, float)
    second = np.array([0] * 9 + [1] * 2 + [1] * 10, float)
    assert statistics.permutation(first, second) == pytest.approx(statistics.mcnemar(first, second))


def test_holm():
    adjusted = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


def test_bad_input():
    with pytest.raises(ValueError, match="same seeds and items"):
        statistics.difference(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="NaN"):
        statistics.over_seeds(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="nothing to resample"):
        statistics.draw_sums(np.zeros(0))
    with pytest.raises(ValueError, match="non-empty"):
        statistics.mean(np.zeros(0))
