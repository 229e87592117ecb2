"""The metrics equal platonic-rep's numbers on a fixed input, and formulas that are written in another way here."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.probe import alignment_metrics
from pivot_jax.probe.alignment_metrics import METRICS, measure

K = 5
# metrics.py of platonic-rep (dcd76ba) on ``features()`` with topk=5: of (x, y), and of (x, x).
PLATONIC = {
    "mutual_knn": (0.385, 1.0),
    "cycle_knn": (0.8, 0.975),
    "lcs_knn": (1.425, 5.0),
    "edit_distance_knn": (0.11, 1.0),
    "cka": (0.6315474657084715, 0.9999999975678814),
    "unbiased_cka": (0.6028036472787277, 0.9999960057761029),
    "cknna": (0.3436284653250035, 0.9999811451966645),
}


def features() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(40, 4))
    x = shared @ rng.normal(size=(4, 7)) + 0.5 * rng.normal(size=(40, 7))
    y = shared @ rng.normal(size=(4, 5)) + 0.5 * rng.normal(size=(40, 5))
    return tuple(side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))


@pytest.mark.parametrize("name", METRICS)
def test_numbers_of_platonic_rep(name):
    x, y = features()
    assert (measure(name, x, y, K), measure(name, x, x, K)) == pytest.approx(PLATONIC[name], abs=1e-7)


def nearest(x: np.ndarray) -> list[list[int]]:
    """By sorting, item by item."""
    out = []
    for i, row in enumerate(x):
        others = [(float(row @ other), j) for j, other in enumerate(x) if j != i]
        out.append([j for _, j in sorted(others, reverse=True)[:K]])
    return out


def lcs(a: list[int], b: list[int]) -> int:
    if not a or not b:
        return 0
    return lcs(a[1:], b[1:]) + 1 if a[0] == b[0] else max(lcs(a[1:], b), lcs(a, b[1:]))


def edits(a: list[int], b: list[int]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(edits(a[1:], b[1:]) + (a[0] != b[0]), edits(a[1:], b) + 1, edits(a, b[1:]) + 1)


def test_neighbour_metrics_by_their_definitions():
    x, y = features()
    near_x, near_y = nearest(x), nearest(y)
    pairs = list(zip(near_x, near_y, strict=True))
    expected = {
        "mutual_knn": np.mean([len(set(a) & set(b)) / K for a, b in pairs]),
        "cycle_knn": np.mean([any(i in near_x[j] for j in near) for i, near in enumerate(near_y)]),
        "lcs_knn": np.mean([lcs(a, b) for a, b in pairs]),
        "edit_distance_knn": np.mean([1 - edits(a, b) / K for a, b in pairs]),
    }
    assert {name: measure(name, x, y, K) for name in expected} == pytest.approx(expected, abs=1e-12)
    assert measure("cycle_knn", y, x, K) != measure("cycle_knn", x, y, K)


def hsic_of_quadruples(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased HSIC as a U-statistic (Gretton et al. 2005): sums over distinct i, j, q, r."""
    n = len(a)
    distinct = np.ones((n, n, n), bool)
    i, j, q = np.indices((n, n, n))
    distinct = (i != j) & (j != q) & (i != q)
    pairs = n * (n - 1)
    first = sum(a[i, j] * b[i, j] for i in range(n) for j in range(n) if i != j) / pairs
    third = (a[i, j] * b[i, q])[distinct].sum() / (pairs * (n - 2))
    total = 0.0
    for s in range(n):
        for t in range(n):
            rest = [m for m in range(n) if m not in (s, t)]
            if s != t:
                inner = b[np.ix_(rest, rest)]
                total += a[s, t] * (inner.sum() - np.trace(inner))
    return float(first + total / (pairs * (n - 2) * (n - 3)) - 2 * third)


def test_kernel_alignments_by_their_definitions():
    x, y = (side[:12] for side in features())
    kx, ky = x @ x.T, y @ y.T
    centring = np.eye(12) - 1 / 12
    biased = [np.trace(a @ centring @ b @ centring) for a, b in ((kx, ky), (kx, kx), (ky, ky))]
    unbiased = [hsic_of_quadruples(a, b) for a, b in ((kx, ky), (kx, kx), (ky, ky))]
    for name, (xy, xx, yy) in {"cka": biased, "unbiased_cka": unbiased}.items():
        assert measure(name, x, y) == pytest.approx(xy / (np.sqrt(xx * yy) + 1e-6), abs=1e-12)
    near = alignment_metrics.neighbours(kx, 11)
    assert measure("cknna", x, y, near.shape[1]) == pytest.approx(measure("unbiased_cka", x, y), abs=1e-12)


def test_unbiased_metrics_are_zero_on_average_for_independent_features():
    rng = np.random.default_rng(1)
    drawn = [(rng.normal(size=(30, 20)), rng.normal(size=(30, 20))) for _ in range(200)]
    assert abs(np.mean([measure("unbiased_cka", x, y) for x, y in drawn])) < 0.01
    assert np.mean([measure("cka", x, y) for x, y in drawn]) > 0.3  # which is why it cannot be read alone


def test_bad_input():
    x, y = features()
    with pytest.raises(ValueError, match="metric 'knn' is unknown; choose one of mutual_knn"):
        measure("knn", x, y)
    with pytest.raises(ValueError, match="need the same items"):
        measure("cka", x, y[1:])
    with pytest.raises(ValueError, match="k must be between 1 and 39"):
        measure("lcs_knn", x, y, 40)
    with pytest.raises(ValueError, match="k of at least 2"):
        measure("cknna", x, y, 1)
    with pytest.raises(ValueError, match="3 items; this metric needs at least 4"):
        measure("unbiased_cka", x[:3], y[:3])
    with pytest.raises(ValueError, match="NaN or infinity"):
        measure("cka", x, np.where(y > 0.3, np.nan, y))
