"""Alignment of two models: the metric of the pair of layers that agree most (Huh et al. 2024).

Each item (an image-text pair) has a feature in every layer of both models; ``alignment_metrics`` compares two layers.
Letters: n items, l layers, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pivot_jax.eval.statistics import Interval, jackknife
from pivot_jax.probe.alignment_metrics import METRICS, TOP_K, Metric, products

QUANTILE = 0.95
GROUPS, SHUFFLES = 20, 20


@dataclass(frozen=True)
class Alignment:
    """The best pair of layers and the whole table.

    Attributes:
      layers: (layer of x, layer of y) with the highest score.
      table: float64 [layers of x, layers of y]; NaN where the metric is not defined.
      chance: expectation at the best pair if the items of y were shuffled; the maximum over pairs is slightly higher.
      interval: of the score of this pair of layers; None where there are too few items. That the pair was chosen as the
        best is not in it. For the metrics of neighbours it is conservative: with 100 simulated items, 95 %
        intervals covered 98 to 100 %, and those of CKA 94 %.
    """

    score: float
    layers: tuple[int, int]
    table: np.ndarray
    chance: float
    metric: str = "mutual_knn"
    interval: Interval | None = None


def clamp_outliers(features: np.ndarray, quantile: float = QUANTILE, *, exact: bool = True) -> np.ndarray:
    """Clamp to ± the quantile of |x| over the whole array (``exact``), or to the mean of the items' own quantiles.

    Otherwise a few huge activations would decide every neighbourhood. The second is platonic-rep's faster choice for
    large arrays: it interpolates within each item, and the first sorts all numbers.
    """
    if quantile >= 1:
        return features
    size = np.abs(features)
    if exact:
        rank = int(quantile * size.size)
        limit = np.partition(size, rank, axis=None)[rank]
    else:
        limit = np.quantile(size.reshape(len(features), -1), quantile, axis=1).mean()
    return np.clip(features, -limit, limit)


def align(
    x: np.ndarray | Sequence[np.ndarray],
    y: np.ndarray | Sequence[np.ndarray],
    *,
    metric: str = "mutual_knn",
    k: int = TOP_K,
    quantile: float = QUANTILE,
    exact: bool = True,
    seed: int = 0,
) -> Alignment:
    """Best score over all pairs of layers, after clamping outliers and scaling to unit length.

    CKA and CKNNA keep an [n, n] matrix of each layer of y in memory, 8 MB of 1,024 items.

    Args:
      x, y: [n, layers, d], or a sequence of [n, d] per layer where widths differ.
      metric: a key of ``alignment_metrics.METRICS``; ``cycle_knn`` goes from an item to y, and back through x.
      seed: of the shuffles behind ``chance``, and of the groups behind ``interval``.

    Raises:
      ValueError: an unknown metric, other items in y, too few items, or features that are not finite.
    """
    if metric not in METRICS:
        raise ValueError(f"metric '{metric}' is unknown; choose one of {', '.join(METRICS)}")
    rule = METRICS[metric]
    first, second = _layers(x, quantile, exact), _layers(y, quantile, exact)
    n = len(first[0])
    if n != len(second[0]):
        raise ValueError(f"{n} and {len(second[0])} items; both models need the same items")
    prepared = [rule.prepare(products(layer), k) for layer in second]
    table = np.array([[rule.compare(side, other) for other in prepared] for side in _prepared(rule, first, k)])
    if np.isnan(table).all():
        raise ValueError(f"{metric} is not defined for any pair of layers; there are too few items ({n})")
    row, column = (int(index) for index in np.unravel_index(np.nanargmax(table), table.shape))
    score = float(table[row, column])
    best = products(first[row]), products(second[column])
    chance = k / (n - 1) if metric == "mutual_knn" else _chance(rule, *best, k, seed)
    return Alignment(score, (row, column), table, chance, metric, _interval(rule, score, *best, k, seed))


def _prepared(rule: Metric, layers: Sequence[np.ndarray], k: int):  # one at a time: each may be an [n, n] matrix
    return (rule.prepare(products(layer), k) for layer in layers)


def _chance(rule: Metric, x: np.ndarray, y: np.ndarray, k: int, seed: int) -> float:
    """Mean score against shuffled items. x, y: dot products [n, n]."""
    generator, side = np.random.default_rng(seed), rule.prepare(x, k)
    orders = [generator.permutation(len(y)) for _ in range(SHUFFLES)]
    return float(np.nanmean([rule.compare(side, rule.prepare(y[np.ix_(order, order)], k)) for order in orders]))


def _interval(rule: Metric, score: float, x: np.ndarray, y: np.ndarray, k: int, seed: int) -> Interval | None:
    """Jackknife over groups of items. A bootstrap would draw items twice, which are their own nearest neighbours."""
    n = len(x)
    groups = np.array_split(np.random.default_rng(seed).permutation(n), min(GROUPS, n))
    fewest = n - max(len(group) for group in groups)
    if fewest <= (max(rule.items, k) if rule.local else rule.items):
        return None
    scores = []
    for group in groups:
        kept = np.delete(np.arange(n), group)
        scores.append(rule.compare(*(rule.prepare(side[np.ix_(kept, kept)], k) for side in (x, y))))
    return None if np.isnan(scores).any() else jackknife(score, np.array(scores))


def _layers(features: np.ndarray | Sequence[np.ndarray], quantile: float, exact: bool) -> list[np.ndarray]:
    """Per layer [n, d] of unit length; an array is clamped as a whole, separate layers one by one."""
    if isinstance(features, np.ndarray):
        clamped = clamp_outliers(features.astype(np.float32), quantile, exact=exact)
        layers = [clamped[:, index] for index in range(clamped.shape[1])]
    else:
        layers = [clamp_outliers(np.asarray(layer, np.float32), quantile, exact=exact) for layer in features]
    return [layer / np.maximum(np.linalg.norm(layer, axis=1, keepdims=True), 1e-12) for layer in layers]
