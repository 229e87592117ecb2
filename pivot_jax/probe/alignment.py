"""Mutual k-nearest-neighbour alignment: how similarly two representations order the same items (Huh et al. 2024).

Each item (an image-text pair) has a feature in both models. The score is the mean share of its k nearest neighbours
that both models agree on; independent features score k / (n − 1). Letters: n items, l layers, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOP_K, QUANTILE = 10, 0.95


@dataclass(frozen=True)
class Alignment:
    """The best pair of layers and the whole table."""

    score: float
    layers: tuple[int, int]  # (layer of x, layer of y)
    table: np.ndarray  # float64 [layers of x, layers of y]
    chance: float  # expectation for independent features, k / (n - 1); the maximum over pairs is slightly higher


def clamp_outliers(features: np.ndarray, quantile: float = QUANTILE, *, exact: bool = True) -> np.ndarray:
    """Clamp to ± the quantile of |x| over the whole array (``exact``), or to the mean of the items' own quantiles.

    Otherwise a few huge activations would decide every neighbourhood.
    """
    if quantile >= 1:
        return features
    size = np.abs(features)
    if exact:
        flat = np.sort(size, axis=None)
        limit = flat[int(quantile * flat.size)]
    else:
        limit = np.quantile(size.reshape(len(features), -1), quantile, axis=1).mean()
    return np.clip(features, -limit, limit)


def neighbours(features: np.ndarray, k: int = TOP_K) -> np.ndarray:
    """Indices [n, k] of each item's k most similar others by dot product."""
    if not 0 < k < len(features):
        raise ValueError(f"{k} neighbours of {len(features)} items; k must be between 1 and {len(features) - 1}")
    similarity = np.array(features @ features.T, np.float64)
    np.fill_diagonal(similarity, -np.inf)
    return np.argpartition(-similarity, k - 1, axis=1)[:, :k]


def mutual_knn(x: np.ndarray, y: np.ndarray, k: int = TOP_K) -> float:
    """Mean share of common neighbours. x [n, d], y [n, d']; rows of unit length give cosine neighbours."""
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} items; both models need the same items")
    return _agreement(neighbours(x, k), neighbours(y, k))


def align(
    x: np.ndarray | Sequence[np.ndarray],
    y: np.ndarray | Sequence[np.ndarray],
    *,
    k: int = TOP_K,
    quantile: float = QUANTILE,
    exact: bool = True,
) -> Alignment:
    """Best mutual-kNN score over all pairs of layers, after clamping outliers and scaling to unit length.

    Args:
      x, y: [n, layers, d], or a sequence of [n, d] per layer where widths differ.
    """
    first, second = _layers(x, quantile, exact), _layers(y, quantile, exact)
    if len(first[0]) != len(second[0]):
        raise ValueError(f"{len(first[0])} and {len(second[0])} items; both models need the same items")
    near_x, near_y = [[neighbours(layer, k) for layer in side] for side in (first, second)]
    table = np.array([[_agreement(a, b) for b in near_y] for a in near_x])
    row, column = np.unravel_index(table.argmax(), table.shape)
    chance = k / (len(first[0]) - 1)
    return Alignment(float(table.max()), (int(row), int(column)), table, chance)


def _layers(features: np.ndarray | Sequence[np.ndarray], quantile: float, exact: bool) -> list[np.ndarray]:
    """Per layer [n, d] of unit length; an array is clamped as a whole, separate layers one by one."""
    if isinstance(features, np.ndarray):
        clamped = clamp_outliers(features.astype(np.float32), quantile, exact=exact)
        layers = [clamped[:, index] for index in range(clamped.shape[1])]
    else:
        layers = [clamp_outliers(np.asarray(layer, np.float32), quantile, exact=exact) for layer in features]
    return [layer / np.maximum(np.linalg.norm(layer, axis=1, keepdims=True), 1e-12) for layer in layers]


def _agreement(near_x: np.ndarray, near_y: np.ndarray) -> float:
    shared = (near_x[:, :, None] == near_y[:, None, :]).any(axis=2)
    return float(shared.mean())
