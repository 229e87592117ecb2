"""Whether the order of an epoch is a uniform shuffle: statistics with known expectation, as z-scores.

A z-score is the distance from the expectation in standard deviations: for a uniform shuffle one in 16,000 is beyond 4.
A shuffle within a buffer or within shards fails the first three by orders of magnitude.
"""

from __future__ import annotations

import numpy as np


def displacement(order: np.ndarray) -> float:
    """z of Spearman's footrule D = Σ|order[i] - i| of a permutation [n].

    E D = (n² - 1) / 3, Var D = (n + 1)(2n² + 7) / 45 (Diaconis and Graham, 1977).
    """
    n = len(order)
    found = float(np.abs(order - np.arange(n)).sum(dtype=np.float64))
    return (found - (n * n - 1) / 3) / np.sqrt((n + 1) * (2 * n * n + 7) / 45)


def serial_correlation(order: np.ndarray) -> float:
    """z of the circular correlation of each row number with the next: E = -1 / (n - 1), Var → 1 / n."""
    centred = order - (len(order) - 1) / 2
    found = float((centred * np.roll(centred, -1)).sum() / (centred * centred).sum())
    return (found + 1 / (len(order) - 1)) * np.sqrt(len(order))


def neighbours(batches: np.ndarray) -> float:
    """z of the pairs of rows that follow each other in the data and share a batch; ``batches``: rows [steps, b].

    E = b - 1 where every row is in a batch: (n - 1) such pairs share one with probability (b - 1) / (n - 1) each. They
    are nearly independent and rare, so Var → b - 1.
    """
    steps, size = batches.shape
    batch_of = np.empty(steps * size, np.int32)
    batch_of[batches.ravel()] = np.repeat(np.arange(steps, dtype=np.int32), size)
    found = int((batch_of[1:] == batch_of[:-1]).sum())
    return (found - (size - 1)) / np.sqrt(size - 1)


def dependence(first: np.ndarray, second: np.ndarray) -> float:
    """z of Spearman's correlation of a row's positions in two epochs: E = 0, Var = 1 / (n - 1)."""
    n = len(first)
    places = [np.empty(n), np.empty(n)]
    for place, order in zip(places, (first, second), strict=True):
        place[order] = np.arange(n) - (n - 1) / 2
    return float((places[0] * places[1]).sum() / (places[0] ** 2).sum()) * np.sqrt(n - 1)


def scores(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """All z-scores of two epochs; ``first``, ``second``: their batches, rows [steps, b], every row of n in each."""
    return {
        "displacement": displacement(first.ravel()),
        "serial correlation": serial_correlation(first.ravel()),
        "neighbours in a batch": neighbours(first),
        "second epoch": dependence(first.ravel(), second.ravel()),
    }
