"""Whether one arm is better than another: paired differences, resampled over seeds and items, and tests.

Arms are compared on the same items, so every comparison is paired: the items' difficulty cancels. With several training
seeds, both seeds and items are random, and both are resampled (crossed bootstrap, Owen 2007); an interval over items
alone would say how sure we are about these *checkpoints*, not about the *method*.
Letters: s seeds, n items.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from pivot_jax.eval.intervals import DRAWS, LEVEL, Interval, bootstrap, mean, wilson

__all__ = [
    "Interval",
    "bootstrap",
    "crossed",
    "difference",
    "holm",
    "mcnemar",
    "mean",
    "over_seeds",
    "permutation",
    "seed_spread",
    "wilson",
]


def difference(
    first: np.ndarray,
    second: np.ndarray,
    units: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean of ``first`` − ``second`` on the same items: [n] or [s, n] each (seed i against seed i).

    Args:
      units: cluster of each item (both questions of a pair), where items are not independent.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape:
        raise ValueError(
            f"a paired difference needs the same seeds and items, got {first.shape} and {second.shape} scores"
        )
    return _crossed(first - second, units, draws, level, seed)


def over_seeds(
    values: np.ndarray,
    units: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean of ``values`` [s, n] (or [n], one seed) with seeds and items both resampled.

    With one seed the interval is over items only. With two or three, the seeds' part of it is rough: there are few
    ways to draw them.
    """
    values = np.atleast_2d(np.asarray(values, float))
    if values.size and units is None and np.all(values == values.flat[0]) and values.flat[0] in (0.0, 1.0):
        # All right or all wrong: no resampling shows any spread, though n items leave some doubt.
        return mean(values.mean(axis=0), level=level)
    return _crossed(values, units, draws, level, seed)


def _crossed(values: np.ndarray, units: Sequence[Hashable] | None, draws: int, level: float, seed: int) -> Interval:
    """Crossed bootstrap of the mean of [s, n] values; one seed: over items alone."""
    values = np.atleast_2d(values)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"values must be [seeds, items], got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("values hold NaN or infinity; score every item before comparing arms")
    sums, sizes = _cluster(values, units)
    s, n = sums.shape
    if s == 1:
        per_unit = np.stack([sums[0], sizes], axis=1)
        return bootstrap(per_unit, lambda drawn: drawn[:, 0] / drawn[:, 1], draws=draws, level=level, seed=seed)
    generator = np.random.default_rng(seed)
    seeds = generator.multinomial(s, np.full(s, 1 / s), size=draws).astype(float)
    items = generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
    estimates = np.einsum("ds,sn,dn->d", seeds, sums, items, optimize=True) / (s * (items @ sizes))
    low, high = np.percentile(estimates, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(values.mean()), float(low), float(high), level, n)


def crossed(
    per_unit: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    draws: int = 1000,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """:func:`over_seeds` for a statistic of sums (mean IoU of overlap counts): its mean over seeds.

    Args:
      per_unit: [s, n, ...] sums of each seed and item. For a paired difference of two arms put them in a last axis and
        take the difference in ``statistic``.
      statistic: sums over items [..., *rest] → values [...].
    """
    per_unit = np.asarray(per_unit, float)
    s, n = per_unit.shape[:2]
    point = float(np.mean(statistic(per_unit.sum(axis=1))))
    generator = np.random.default_rng(seed)
    seeds = generator.multinomial(s, np.full(s, 1 / s), size=draws) / s
    items = generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
    values = [statistic((items @ one.reshape(n, -1)).reshape(draws, *one.shape[1:])) for one in per_unit]
    estimates = np.einsum("ds,sd->d", seeds, np.asarray(values))
    low, high = np.nanpercentile(estimates, [50 * (1 - level), 50 * (1 + level)])
    return Interval(point, float(low), float(high), level, n)


def seed_spread(values: np.ndarray) -> tuple[float, float]:
    """Mean over seeds of the seeds' means, and their sample standard deviation (0 for one seed): [s, n] → floats."""
    means = np.atleast_2d(np.asarray(values, float)).mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1)) if len(means) > 1 else 0.0


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p of McNemar's test: are the items that only one arm got right split evenly? bool [n] each."""
    from scipy.stats import binomtest

    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"McNemar's test needs the same items, got {first.shape} and {second.shape}")
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def permutation(first: np.ndarray, second: np.ndarray, *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the paired sign-flip test on the mean difference; scores [n] of any kind.

    Exact over all 2^k flips of the k items that differ while k ≤ 14, else by ``draws`` random flips (with the observed
    one counted in, so that p is never 0).
    """
    gap = np.asarray(first, float) - np.asarray(second, float)
    if gap.ndim != 1:
        raise ValueError(f"the sign-flip test takes one score per item, got {gap.shape}; average the seeds first")
    gap = gap[gap != 0]
    if len(gap) == 0:
        return 1.0
    observed = abs(gap.sum()) * (1 - 1e-12)
    if len(gap) <= 14:
        flips = 1 - 2 * ((np.arange(2 ** len(gap))[:, None] >> np.arange(len(gap))) & 1)
        return float((np.abs(flips @ gap) >= observed).mean())
    generator = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, draws, 1000):
        flips = generator.choice([-1.0, 1.0], size=(min(1000, draws - start), len(gap)))
        extreme += int((np.abs(flips @ gap) >= observed).sum())
    return (extreme + 1) / (draws + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm-adjusted p per comparison (Holm 1979): compare with 0.05 to keep the chance of any false claim there."""
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def _cluster(values: np.ndarray, units: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums [s, clusters] and sizes [clusters]."""
    if units is None:
        return values, np.ones(values.shape[1])
    if len(units) != values.shape[1]:
        raise ValueError(f"{len(units)} unit labels for {values.shape[1]} items")
    _, index = np.unique(np.asarray([str(unit) for unit in units]), return_inverse=True)
    sums = np.stack([np.bincount(index, weights=row) for row in values])
    return sums, np.bincount(index).astype(float)
