"""Mutual-kNN alignment is 1 with itself, k / (n - 1) by chance, and blind to rotation and scale."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.probe import alignment, alignment_metrics

CLAMPED = {True: (2.828162, -2.582011), False: (3.089770, -1.535579)}  # exact → (largest entry, sum)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def gaussian(n=1024, d=64, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def test_alignment_of_equal_features_is_one():
    assert alignment_metrics.mutual_knn(gaussian(), gaussian()) == 1.0


def test_alignment_of_independent_gaussians_is_chance():
    scores = [alignment_metrics.mutual_knn(gaussian(seed=2 * i), gaussian(seed=2 * i + 1)) for i in range(4)]
    assert np.mean(scores) == pytest.approx(10 / 1023, abs=0.001)


def test_alignment_is_invariant_to_rotation_and_scale():
    x, y = gaussian(400, seed=1), gaussian(400, seed=2) + gaussian(400, seed=1)
    base = alignment_metrics.mutual_knn(x, y)
    assert 0.1 < base < 0.9
    assert alignment_metrics.mutual_knn(x @ rotation(64), 7.3 * y @ rotation(64, 1)) == pytest.approx(base, abs=1e-12)


def test_best_pair_of_layers():
    shared = gaussian(300, seed=3)
    x = np.stack([gaussian(300, seed=4), shared, gaussian(300, seed=5)], 1)
    y = [gaussian(300, 32, seed=6), gaussian(300, 16, seed=7), shared @ rotation(64), gaussian(300, 8, seed=8)]
    found = alignment.align(x, y, quantile=1.0)
    assert found.layers == (1, 2) and found.score == pytest.approx(1.0) and found.table.shape == (3, 4)
    assert found.chance == pytest.approx(10 / 299)
    assert np.delete(found.table.reshape(-1), 6).max() < 0.1


def test_clamping_removes_the_rule_of_outliers():
    x = gaussian(300, seed=9)
    spoiled = x.copy()
    spoiled[:, 0] += 50 * np.random.default_rng(0).normal(size=300)
    clamped = alignment.align(x[:, None], spoiled[:, None]).score
    raw = alignment.align(x[:, None], spoiled[:, None], quantile=1.0).score
    assert clamped > 2 * raw


def test_exact_quantile_is_the_sorted_entry():
    x = np.arange(-10, 10, dtype=np.float32)[:, None]
    assert np.abs(alignment.clamp_outliers(x, 0.5)).max() == 5
    assert np.abs(alignment.clamp_outliers(x, 0.5, exact=False)).max() == pytest.approx(np.abs(x).mean())


def test_sampled_clamp_is_the_one_of_platonic_rep():
    """remove_outliers of platonic-rep (dcd76ba): largest entry and sum after clamping at the 80 % quantile."""
    z = np.random.default_rng(3).normal(size=(6, 3, 4)).astype(np.float32) * np.array([1, 10, 1, 1], np.float32)
    for exact, expected in CLAMPED.items():
        clamped = alignment.clamp_outliers(z, 0.8, exact=exact)
        assert (np.abs(clamped).max(), clamped.sum()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("metric", alignment_metrics.METRICS)
def test_every_metric_finds_the_shared_layer(metric):
    shared = gaussian(60, 12, seed=3)
    noise = [gaussian(60, 12, seed=seed) for seed in range(4, 9)]
    found = alignment.align([noise[0], shared], [noise[1], noise[2], shared @ rotation(12)], metric=metric, k=5)
    assert found.layers == (1, 2) and found.metric == metric and found.table.shape == (2, 3)
    assert found.score == found.table[1, 2] > found.chance
    assert found.interval.value == found.score and found.interval.low <= found.score <= found.interval.high
    assert found.interval.method == "jackknife" and found.interval.n == 20


def test_chance_is_that_of_shuffled_items():
    x, y = gaussian(80, 8, seed=1), gaussian(80, 8, seed=2)
    expected = np.mean([
        alignment_metrics.measure("edit_distance_knn", x, y[np.random.default_rng(seed).permutation(80)], 5)
        for seed in range(40)
    ])  # fmt: skip
    found = alignment.align([x], [y], metric="edit_distance_knn", k=5, quantile=1.0)
    assert found.chance == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("metric", ["mutual_knn", "unbiased_cka"])
def test_jackknife_intervals_cover(metric):
    """Of 150 draws of items at least 92 % hold the expectation, which 400 more draws give."""
    mixing = np.random.default_rng(0).normal(size=(2, 6, 6))

    def draw(seed):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=(100, 6))
        return [shared @ mix + rng.normal(size=(100, 6)) for mix in mixing]

    expected = np.mean([alignment_metrics.measure(metric, *map(unit, draw(seed)), 10) for seed in range(400)])
    intervals = [alignment.align(*([side] for side in draw(1000 + i)), metric=metric, quantile=1.0).interval
                 for i in range(150)]  # fmt: skip
    assert np.mean([one.low <= expected <= one.high for one in intervals]) >= 0.92
    assert np.mean([one.high - one.low for one in intervals]) < 0.25  # and they say something


def test_few_items_have_no_interval():
    assert alignment.align([gaussian(11)], [gaussian(11)], k=10).interval is None
    assert alignment.align([gaussian(12)], [gaussian(12)], k=10).interval is not None


def test_bad_input():
    with pytest.raises(ValueError, match="need the same items"):
        alignment_metrics.mutual_knn(gaussian(20), gaussian(21))
    with pytest.raises(ValueError, match="k must be between"):
        alignment_metrics.neighbours(np.eye(5), 5)
