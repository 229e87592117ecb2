"""Confidence intervals, paired differences and tests of scores.

The unit that is resampled is the independent one: a question, a pair of questions, an image. Arms are compared on the
same items, so every comparison is paired and the difficulty of the items cancels. With several training seeds, both
seeds and items are random. An interval over items alone would say how sure we are about these *checkpoints*, not about
the *method*. Letters: s seeds, n items, c clusters.

Seeds are few, and resampling two or three of them makes intervals that are much too narrow. Their part of the
uncertainty is taken from Student's t instead. With the effects of seeds a, items b and both e, the score of seed i is
m_i = μ + a_i + mean(b) + mean(e_i), and the mean over seeds has the variance::

    V = V_seeds + V_items,  V_seeds = var(m) / s, an estimate with s - 1 degrees of freedom,
                            V_items = cov(m_i, m_j), i ≠ j: what all seeds share because they answer the same items

Two approximations for such a sum are known. ± sqrt(t² V_seeds + z² V_items), with the quantiles t of s - 1 degrees of
freedom and z of the normal distribution (Banerjee 1960), is too wide where both parts matter: it covers up to 97.6 %
with three seeds. ± t sqrt(V) with Satterthwaite's degrees of freedom, as mixed models have them, is too narrow: it
covers down to 92 %, and 87 % with two. The interval here is ± the mean of both. Whatever the two parts' shares are, it
covers 94 to 97 % with three seeds or more, and 94 to 98 % with two (:mod:`tests.eval.test_statistics`). Two seeds make
wide intervals: t is 12.7. Where the seeds happen to agree, the interval still has a standard error of these models over
the items on each side.

Everything here is seeded, so that one seed gives one report. Resampling works on counts: a bootstrap draw of n units is
a multinomial vector of n counts. A statistic of *sums* over units (a mean, a ratio, a mean intersection over union) is
then one matrix product per draw, whatever the shape of the sums of a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

LEVEL, DRAWS, POWER = 0.95, 2000, 0.8
Key = TypeVar("Key", bound=Hashable)  # of a comparison
Units = Sequence[Hashable]  # cluster of each value; values of one cluster are drawn together
Statistic = Callable[[np.ndarray], np.ndarray]  # sums [draws, ...] → values [draws]
_CHUNK_ELEMENTS = 4_000_000  # counts in memory at once: 32 MB of int64


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, in the unit of the estimate (shares are 0..1, not percent)."""

    value: float
    low: float
    high: float
    level: float = LEVEL
    n: int = 0  # number of independent units
    method: str = "bootstrap"
    seeds: int = 1
    # The smallest true difference that an experiment like this one finds (zero outside the interval) in 80 % of cases.
    detectable: float = float("nan")
    p: float = float("nan")  # two-sided, that the true value is zero; below 1 - level where the interval excludes zero

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of zero: for a difference, whether it has a sign."""
        return self.low > 0 or self.high < 0

    def scaled(self, factor: float) -> Interval:
        """The same interval in another unit (100 for percent)."""
        ends = {name: getattr(self, name) * factor for name in ("value", "low", "high", "detectable")}
        return replace(self, **ends)


def draw_sums(per_unit: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Sums over resampled units.

    Args:
      per_unit: [n, ...] one entry per independent unit.

    Returns:
      float64 [draws, ...].

    Raises:
      ValueError: no units.
    """
    per_unit = np.asarray(per_unit, np.float64)
    n = len(per_unit)
    if n == 0:
        raise ValueError("bootstrap of no units; there is nothing to resample")
    flat = per_unit.reshape(n, -1)
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ELEMENTS // n)
    sizes = [min(chunk, draws - start) for start in range(0, draws, chunk)]
    sums = [generator.multinomial(n, np.full(n, 1.0 / n), size=size) @ flat for size in sizes]
    return np.concatenate(sums).reshape(draws, *per_unit.shape[1:])


def bootstrap(
    per_unit: np.ndarray, statistic: Statistic, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Percentile bootstrap (Efron 1979) of a statistic of sums.

    Args:
      per_unit: [n, ...] sums of each independent unit.
      statistic: maps sums [draws, ...] to values [draws]. Its value at ``per_unit.sum(0)[None]`` is the point estimate.
    """
    return bootstraps(per_unit, {"": statistic}, draws=draws, level=level, seed=seed)[""]


def bootstraps(
    per_unit: np.ndarray, values: Mapping[str, Statistic], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """:func:`bootstrap` of several statistics by name, of the same resampled units."""
    per_unit = np.asarray(per_unit, np.float64)
    drawn, whole = draw_sums(per_unit, draws=draws, seed=seed), per_unit.sum(0)[None]
    found = {}
    for name, value in values.items():
        point, estimates = float(np.asarray(value(whole))[0]), np.asarray(value(drawn), np.float64)
        found[name] = _percentiles(point, estimates, len(per_unit), level)
    return found


def mean(
    values: np.ndarray, units: Units | None = None, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Mean of ``values`` [n] with its interval.

    A bootstrap of 0/1 values that are all equal has no width, which would claim certainty. Wilson's score interval
    replaces it there, and ``method`` says so.

    Args:
      units: cluster of each value, where values are not independent.

    Raises:
      ValueError: no values, or another number of units.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"mean takes a non-empty vector of values, got shape {values.shape}")
    if units is None or (len(units) == len(values) and len(set(map(str, units))) == len(values)):
        if _is_constant_share(values):
            return wilson(int(values.sum()), len(values), level=level)
        return bootstrap(values, lambda sums: sums / len(values), draws=draws, level=level, seed=seed)
    sums, sizes = _clusters(values[None], units)
    return _ratio(sums[0], sizes, draws, level, seed)


def wilson(successes: int, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share (Wilson 1927). It is exact enough at 0 % and 100 %; the bootstrap is not."""
    from scipy.special import ndtri

    z = float(ndtri(1 - (1 - level) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # At 0 of n and n of n the bound is the share itself; rounding must not move it to the wrong side.
    return Interval(share, min(low, share), max(high, share), level, n, method="wilson")


def over_seeds(
    values: np.ndarray, units: Units | None = None, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Mean of ``values`` [s, n] (or [n], one seed) with seeds and items both random.

    With one seed the interval is a bootstrap over items only. Where all values are from 0 to 1 they are taken as
    shares, and so are the ends of the interval.

    Raises:
      ValueError: no values, NaN or infinity among them, or another number of units than items.
    """
    values = np.atleast_2d(np.asarray(values, float))
    if units is None and _is_constant_share(values):
        # All right or all wrong: resampling shows no spread, although n items leave some doubt.
        return mean(values.mean(axis=0), level=level)
    found = _crossed_mean(values, units, draws, level, seed)
    if values.min() >= 0 and values.max() <= 1:
        found = replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))
    return found


def difference(
    first: np.ndarray,
    second: np.ndarray,
    units: Units | None = None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean of ``first`` − ``second`` on the same items: [n] or [s, n] each (seed i is paired with seed i).

    The ends are those of a difference of shares where all values are from 0 to 1.

    Args:
      units: cluster of each item (both questions of a pair), where items are not independent.

    Raises:
      ValueError: other seeds or items in the second, or as :func:`over_seeds`.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape:
        raise ValueError(
            f"a paired difference needs the same seeds and items, got {first.shape} and {second.shape} scores"
        )
    found = _crossed_mean(np.atleast_2d(first - second), units, draws, level, seed)
    if min(first.min(), second.min()) >= 0 and max(first.max(), second.max()) <= 1:
        found = replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))
    return found


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
    if s == 1:
        return bootstrap(per_unit[0], statistic, draws=draws, level=level, seed=seed)
    # Every seed's statistic over the same draws of items: how they vary together is the items' part.
    items = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
    values = np.asarray([statistic((items @ one.reshape(n, -1)).reshape(draws, *one.shape[1:])) for one in per_unit])
    values = values[:, np.isfinite(values).all(axis=0)]  # without draws that hold nothing of a class
    scores = np.asarray(statistic(per_unit.sum(axis=1)), np.float64)
    return _over_seeds(scores, np.cov(values), n, level)


def _crossed_mean(values: np.ndarray, units: Units | None, draws: int, level: float, seed: int) -> Interval:
    """The mean of [s, n] values; with one seed: a bootstrap over items alone."""
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"values must be [seeds, items], got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("values hold NaN or infinity; score every item before comparing arms")
    sums, sizes = (values, np.ones(values.shape[1])) if units is None else _clusters(values, units)
    s, c = sums.shape
    if s == 1:
        return _ratio(sums[0], sizes, draws, level, seed)
    scores = values.mean(axis=1)
    residuals = sums - scores[:, None] * sizes
    covariance = residuals @ residuals.T * (c / max(c - 1, 1)) / sizes.sum() ** 2
    return _over_seeds(scores, covariance, c, level)


def _over_seeds(scores: np.ndarray, covariance: np.ndarray, n: int, level: float) -> Interval:
    """The mean of the seeds' scores [s], whose covariance [s, s] over the draws of items is known. See the module."""
    s, point = len(scores), float(scores.mean())
    of_seeds = float(scores.var(ddof=1)) / s
    of_items = max(0.0, float(covariance.sum() - np.trace(covariance)) / (s * (s - 1)))
    least = float(np.sqrt(max(0.0, covariance.sum()))) / s
    half, more = (float(error_bound(tail, of_seeds, of_items, s - 1)) for tail in ((1 - level) / 2, 1 - POWER))
    half, detectable = max(least, half), max(least, half + more)
    p = 1.0 if abs(point) <= least else _p_of(abs(point), of_seeds, of_items, s - 1)
    return Interval(point, point - half, point + half, level, n, "t over seeds", s, detectable, p)


def error_bound(tail: Any, of_seeds: Any, of_items: Any, freedom: int) -> Any:
    """What the error of a mean is above in a share ``tail`` of all experiments; see the module.

    Args:
      of_seeds: estimated variance of the mean by seeds, with ``freedom`` degrees of freedom. of_items: by items. All
        may be arrays.
    """
    from scipy.special import ndtri, stdtrit

    total = of_seeds + of_items
    share = np.divide(of_seeds, total, out=np.zeros(np.shape(total)), where=np.asarray(total) > 0)
    effective = freedom / np.maximum(share**2, 1e-9)  # Satterthwaite; without a part of the seeds nearly normal
    wide = np.hypot(stdtrit(freedom, tail) * np.sqrt(of_seeds), ndtri(tail) * np.sqrt(of_items))
    return (wide - stdtrit(effective, tail) * np.sqrt(total)) / 2  # quantiles of the lower tail are negative


def _p_of(distance: float, of_seeds: float, of_items: float, freedom: int) -> float:
    """1 - the level of the interval that just reaches zero, from the estimate's distance to it."""
    from scipy.optimize import brentq

    def beyond(log_p: float) -> float:
        return float(error_bound(np.exp(log_p) / 2, of_seeds, of_items, freedom)) - distance

    if of_seeds + of_items == 0 or beyond(np.log(1e-12)) < 0:
        return 1e-12
    return float(np.exp(brentq(beyond, np.log(1e-12), 0.0)))


def _ratio(sums: np.ndarray, sizes: np.ndarray, draws: int, level: float, seed: int) -> Interval:
    """Bootstrap of the mean of values whose sums [c] and numbers [c] per cluster are known."""
    per_unit = np.stack([sums, sizes], axis=1)
    return bootstrap(per_unit, lambda drawn: drawn[:, 0] / drawn[:, 1], draws=draws, level=level, seed=seed)


def _clusters(values: np.ndarray, units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Sums [s, c] and sizes [c] of the clusters of [s, n] values."""
    if len(units) != values.shape[1]:
        raise ValueError(f"{len(units)} unit labels for {values.shape[1]} values")
    _, index = np.unique(np.asarray([str(unit) for unit in units]), return_inverse=True)
    return np.stack([np.bincount(index, weights=row) for row in values]), np.bincount(index).astype(float)


def _percentiles(point: float, estimates: np.ndarray, n: int, level: float) -> Interval:
    """Percentile interval of bootstrap estimates [draws]; NaN estimates (an empty class was drawn) do not count."""
    from scipy.special import ndtri

    low, high = np.nanpercentile(estimates, [50 * (1 - level), 50 * (1 + level)])
    detectable = (1 + ndtri(POWER) / ndtri((1 + level) / 2)) * (high - low) / 2
    known = estimates[np.isfinite(estimates)]
    tail = (1 + min(int((known <= 0).sum()), int((known >= 0).sum()))) / (len(known) + 1)
    return Interval(point, float(low), float(high), level, n, detectable=float(detectable), p=min(1.0, 2 * tail))


def _is_constant_share(values: np.ndarray) -> bool:
    """Whether all values are 0, or all are 1."""
    return bool(values.size and values.flat[0] in (0.0, 1.0) and np.all(values == values.flat[0]))


def jackknife(value: float, without: np.ndarray, *, level: float = LEVEL) -> Interval:
    """Interval of any statistic of independent items, also one that is no function of sums over them.

    ``value`` ± t(g − 1) √((g − 1)/g Σ (θᵢ − θ̄)²), with θᵢ the statistic without group i (Tukey 1958). The variance is
    on average too large rather than too small, for every symmetric statistic (Efron and Stein 1981). Groups of more
    than √n items make it hold for statistics that jump as neighbours change (Shao and Wu 1989).

    Args:
      value: the statistic of all items.
      without: [g] its values without one of g groups of items of about the same size each.

    Raises:
      ValueError: fewer than two groups.
    """
    from scipy.special import stdtrit

    g = len(without)
    if g < 2:
        raise ValueError(f"a jackknife needs at least two groups, got {g}")
    error = float(np.sqrt((g - 1) / g * ((without - without.mean()) ** 2).sum()))
    half = float(stdtrit(g - 1, (1 + level) / 2)) * error
    return Interval(value, value - half, value + half, level, g, method="jackknife")


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p of McNemar's test (McNemar 1947): are the items that only one arm got right split evenly?

    Args:
      first, second: bool [n], whether each item is right.
    """
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


def cohen_h(first: float, second: float) -> float:
    """Effect size of the difference of two shares (Cohen 1988, ch. 6): 0.2 is small, 0.5 medium, 0.8 large."""
    return float(2 * np.arcsin(np.sqrt(first)) - 2 * np.arcsin(np.sqrt(second)))


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm-adjusted p per comparison (Holm 1979): compare with 0.05 to keep the chance of any false claim there."""
    adjusted: dict[Key, float] = {}
    running = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}
