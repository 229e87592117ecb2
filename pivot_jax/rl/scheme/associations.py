"""Does reflection go with correct answers? Correlations of curves, and comparisons within questions.

"Reflection correlates with length", or with accuracy, can mean that long or hard questions have more of both. Comparing
responses to the same question takes the question out, and a second regressor the length. Nothing here is causal.
Letters: n responses, q questions, e epochs, r runs, x regressors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pivot_jax.eval.statistics import LEVEL, Interval

_Z = 1.959964  # of the normal distribution, two-sided 95 %


@dataclass(frozen=True)
class Association:
    """Difference in accuracy between responses that reflect and those that do not, shares.

    Attributes:
      raw: over all responses.
      within: between responses to the same question.
      controlled: within questions, at equal length. None: no question has responses of both kinds.
      per_doubling: what twice the length goes with, within questions, at equal reflection.
    """

    raw: Interval
    within: Interval | None
    controlled: Interval | None
    per_doubling: Interval | None


def association(
    reflects: np.ndarray, correct: np.ndarray, length: np.ndarray, question: np.ndarray
) -> Association | None:
    """Compares responses that reflect with those that do not.

    Least squares on the 0-or-1 outcome, with a constant for every question (deviations from the question's mean), and
    standard errors that take the responses to one question as dependent (clustered; Liang & Zeger 1986).

    Args:
      reflects, correct: bool [n]. length: int [n], any unit. question: int [n].

    Returns:
      None where no response, or every one, reflects.
    """
    if reflects.all() or not reflects.any():
        return None
    y, kind = correct.astype(float), reflects.astype(float)
    doublings = np.log2(np.maximum(length, 1))
    clusters = np.unique(question, return_inverse=True)[1]
    raw = slopes(y - y.mean(), (kind - kind.mean())[:, None], clusters)[0]
    inner = kind - _means(kind, clusters)
    if not np.abs(inner).max() > 1e-9:
        return Association(raw, None, None, None)
    y = y - _means(y, clusters)
    within = slopes(y, inner[:, None], clusters)[0]
    both = np.stack([inner, doublings - _means(doublings, clusters)], axis=1)
    if np.linalg.matrix_rank(both) < 2:
        return Association(raw, within, None, None)
    return Association(raw, within, *slopes(y, both, clusters))


def slopes(y: np.ndarray, x: np.ndarray, clusters: np.ndarray) -> tuple[Interval, ...]:
    """Least-squares slopes of centered y [n] on centered x [n, x], with clustered 95 % intervals."""
    inverse = np.linalg.inv(x.T @ x)
    slope = inverse @ x.T @ y
    scores = x * (y - x @ slope)[:, None]
    count = int(clusters.max()) + 1
    sums = np.stack([np.bincount(clusters, weights=column, minlength=count) for column in scores.T], axis=1)
    variance = inverse @ (sums.T @ sums) @ inverse * (count / max(count - 1, 1))
    errors = np.sqrt(np.diag(variance))
    return tuple(
        Interval(float(one), float(one - _Z * error), float(one + _Z * error), LEVEL, count, "clustered")
        for one, error in zip(slope, errors, strict=True)
    )


def _means(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    return (np.bincount(clusters, weights=values) / np.bincount(clusters))[clusters]


@dataclass(frozen=True)
class Correlation:
    """Pearson correlations of two curves: of their levels, which any common trend makes high, and of their changes."""

    levels: float
    differences: float


def correlation(first: np.ndarray, second: np.ndarray) -> Correlation:
    """Correlations of the mean curves of several runs, float [r, e] each; NaN where one of them does not vary."""
    one, two = np.atleast_2d(first).mean(axis=0), np.atleast_2d(second).mean(axis=0)
    return Correlation(_pearson(one, two), _pearson(np.diff(one), np.diff(two)))


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 2 or not first.std() or not second.std():
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
