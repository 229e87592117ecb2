"""Mutual-kNN alignment is 1 with itself, k / (n - 1) by chance, and blind to rotation and scale."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.probe import alignment


def gaussian(n=1024, d=64, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def test_alignment_of_equal_features_is_one():
    assert alignment.mutual_knn(gaussian(), gaussian()) == 1.0


def test_alignment_of_independent_gaussians_is_chance():
    scores = [alignment.mutual_knn(gaussian(seed=2 * i), gaussian(seed=2 * i + 1)) for i in range(4)]
    assert np.mean(scores) == pytest.approx(10 / 1023, abs=0.001)


def test_alignment_is_invariant_to_rotation_and_scale():
    x, y = gaussian(400, seed=1), gaussian(400, seed=2) + gaussian(400, seed=1)
    base = alignment.mutual_knn(x, y)
    assert 0.1 < base < 0.9
    assert alignment.mutual_knn(x @ rotation(64), 7.3 * y @ rotation(64, 1)) == pytest.approx(base, abs=1e-12)


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


def test_bad_input():
    with pytest.raises(ValueError, match="need the same items"):
        alignment.mutual_knn(gaussian(20), gaussian(21))
    with pytest.raises(ValueError, match="k must be between"):
        alignment.neighbours(gaussian(5), 5)
