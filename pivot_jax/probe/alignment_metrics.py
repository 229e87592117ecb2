"""How similarly two representations order the same items, by seven metrics of Huh et al. 2024.

Every metric reads only the matrix of dot products of each representation, x xᵀ: who is near whom. So widths may differ,
and rotations of a representation change nothing. Numbers equal those of the authors' code (platonic-rep).
Letters: n items, d width, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from rapidfuzz.distance import LCSseq, Levenshtein

TOP_K = 10
# In the denominators of CKA and CKNNA, as in platonic-rep, so that numbers agree. It puts the value of a representation
# with itself slightly below 1 where similarities are tiny.
EPSILON = 1e-6


class Metric(NamedTuple):
    """A metric in two steps, so that each of many layers is prepared once and then compared with many others."""

    prepare: Callable[[np.ndarray, int], Any]  # dot products float64 [n, n], k → what is compared
    compare: Callable[[Any, Any], float]
    local: bool  # whether it reads k
    items: int  # the fewest that it is defined for, if k allows them


def measure(name: str, x: np.ndarray, y: np.ndarray, k: int = TOP_K) -> float:
    """One of :data:`METRICS`. x [n, d], y [n, d']; rows of unit length give cosine similarities.

    Raises:
      ValueError: an unknown metric, other items in y, too few items, or features that are not finite.
    """
    if name not in METRICS:
        raise ValueError(f"metric '{name}' is unknown; choose one of {', '.join(METRICS)}")
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} items; both models need the same items")
    metric = METRICS[name]
    return metric.compare(*(metric.prepare(products(side), k) for side in (x, y)))


def mutual_knn(x: np.ndarray, y: np.ndarray, k: int = TOP_K) -> float:
    """Mean share of common neighbours. x [n, d], y [n, d']; rows of unit length give cosine neighbours."""
    return measure("mutual_knn", x, y, k)


def products(features: np.ndarray) -> np.ndarray:
    """Dot products of all pairs of items: [n, d] → float64 [n, n]. Raises ValueError for NaN and infinity."""
    if not np.isfinite(features).all():
        raise ValueError("features hold NaN or infinity; the model that they come from has diverged")
    wide = np.asarray(features, np.float64)
    return wide @ wide.T


def neighbours(similarity: np.ndarray, k: int = TOP_K) -> np.ndarray:
    """Indices [n, k] of each item's k most similar others, the most similar first.

    Args:
      similarity: float [n, n]. Of equal entries of a row any may come first, but always the same.
    """
    if not 0 < k < len(similarity):
        raise ValueError(f"{k} neighbours of {len(similarity)} items; k must be between 1 and {len(similarity) - 1}")
    away = -similarity
    np.fill_diagonal(away, np.inf)
    nearest = np.argpartition(away, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(away, nearest, axis=1), axis=1, kind="stable")
    return np.take_along_axis(nearest, order, axis=1)


def _mutual(near_x: np.ndarray, near_y: np.ndarray) -> float:
    """Mean share of common neighbours, 0 to 1; independent representations share k / (n - 1)."""
    return float((near_x[:, :, None] == near_y[:, None, :]).any(axis=2).mean())


def _cycle(near_x: np.ndarray, near_y: np.ndarray) -> float:
    """Share of items that are an x-neighbour of one of their y-neighbours, 0 to 1. Not symmetric in x and y."""
    items = np.arange(len(near_x))
    return float((near_x[near_y] == items[:, None, None]).any(axis=(1, 2)).mean())


def _lcs(near_x: np.ndarray, near_y: np.ndarray) -> float:
    """Mean length of the longest common subsequence of the ordered neighbours, 0 to k (not a share)."""
    pairs = zip(near_x.tolist(), near_y.tolist(), strict=True)
    return float(np.mean([LCSseq.similarity(a, b) for a, b in pairs]))


def _edit_distance(near_x: np.ndarray, near_y: np.ndarray) -> float:
    """1 − mean Levenshtein distance of the ordered neighbours / k, 0 to 1."""
    pairs = zip(near_x.tolist(), near_y.tolist(), strict=True)
    return float(1 - np.mean([Levenshtein.distance(a, b) for a, b in pairs]) / near_x.shape[1])


def _centred(similarity: np.ndarray, k: int) -> np.ndarray:
    """H K H with H = I − 1/n (Kornblith et al. 2019): rows and columns have mean 0."""
    means = similarity.mean(axis=0, keepdims=True)
    return similarity - means - means.T + similarity.mean()


def _u_centred(similarity: np.ndarray, k: int) -> np.ndarray:
    """U-centred matrix (Székely and Rizzo 2014), scaled so that products of two sum to the unbiased HSIC."""
    n = _at_least(4, len(similarity))
    off = similarity - np.diag(np.diag(similarity))
    sums = off.sum(axis=0, keepdims=True) / (n - 2)
    centred = off - sums - sums.T + off.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0.0)
    return centred / np.sqrt(n * (n - 3))


def _cka(centred_x: np.ndarray, centred_y: np.ndarray) -> float:
    """Centred kernel alignment HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)), 0 to 1; unbiased: 0 for independent ones."""
    own = (centred_x * centred_x).sum() * (centred_y * centred_y).sum()
    return float((centred_x * centred_y).sum() / (np.sqrt(own) + EPSILON))


class _Local(NamedTuple):
    similarity: np.ndarray  # [n, n]
    mask: np.ndarray  # bool [n, n]: row i marks the neighbours of item i
    own: float  # its unbiased HSIC with itself, over its neighbours


def _with_neighbours(similarity: np.ndarray, k: int) -> _Local:
    if k < 2:
        raise ValueError("CKNNA needs k of at least 2")
    _at_least(4, len(similarity))
    mask = np.zeros(similarity.shape, bool)
    np.put_along_axis(mask, neighbours(similarity, k), True, axis=1)
    return _Local(similarity, mask, _unbiased_hsic(mask * similarity, mask * similarity))


def _cknna(x: _Local, y: _Local) -> float:
    """Unbiased CKA over the pairs that are neighbours in both representations (Huh et al. 2024, appendix A).

    NaN where the unbiased HSIC of one of them with itself is negative, which noise can make it.
    """
    both = x.mask & y.mask
    if min(x.own, y.own) < 0:
        return float("nan")
    return float(_unbiased_hsic(both * x.similarity, both * y.similarity) / (np.sqrt(x.own * y.own) + EPSILON))


def _unbiased_hsic(first: np.ndarray, second: np.ndarray) -> float:
    """Equation 5 of Song et al. 2012, also of matrices that are not symmetric; diagonals do not count."""
    n = len(first)
    a, b = (matrix - np.diag(np.diag(matrix)) for matrix in (first, second))
    crossed = a.sum(axis=0) @ b.sum(axis=1)
    total = (a * b.T).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * crossed / (n - 2)
    return float(total / (n * (n - 3)))


def _at_least(fewest: int, n: int) -> int:
    if n < fewest:
        raise ValueError(f"{n} items; this metric needs at least {fewest}")
    return n


METRICS = {
    "mutual_knn": Metric(neighbours, _mutual, local=True, items=2),
    "cycle_knn": Metric(neighbours, _cycle, local=True, items=2),
    "lcs_knn": Metric(neighbours, _lcs, local=True, items=2),
    "edit_distance_knn": Metric(neighbours, _edit_distance, local=True, items=2),
    "cka": Metric(_centred, _cka, local=False, items=2),
    "unbiased_cka": Metric(_u_centred, _cka, local=False, items=4),
    "cknna": Metric(_with_neighbours, _cknna, local=True, items=4),
}
