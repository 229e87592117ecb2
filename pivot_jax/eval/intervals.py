"""Bootstrap intervals for scores: the unit that is resampled is the independent one (a question, a pair, an image).

Everything here is seeded, so that one seed gives one report. Resampling is done through counts: a bootstrap draw of
n units is a multinomial vector of n counts, so that a statistic of *sums* over units (a mean, a ratio, a mean
intersection over union) is one matrix product per draw, however the units' sums look.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL, DRAWS = 0.95, 2000
_CHUNK_ELEMENTS = 4_000_000  # counts held at once: 32 MB of int64


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, in the unit of the estimate (shares are 0..1, not percent)."""

    value: float
    low: float
    high: float
    level: float = LEVEL
    n: int = 0  # number of independent units behind it
    method: str = "bootstrap"

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero (what a difference is asked for)."""
        return self.low > 0 or self.high < 0

    def scaled(self, factor: float) -> Interval:
        """The same interval in another unit (100 for percent)."""
        return Interval(self.value * factor, self.low * factor, self.high * factor, self.level, self.n, self.method)


def draw_sums(per_unit: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Sums over resampled units.

    Args:
      per_unit: [n, ...] one entry per independent unit.

    Returns:
      float64 [draws, ...].
    """
    per_unit = np.asarray(per_unit, np.float64)
    n = len(per_unit)
    if n == 0:
        raise ValueError("bootstrap of no units; there is nothing to resample")
    flat = per_unit.reshape(n, -1)
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ELEMENTS // n)
    sums = []
    for start in range(0, draws, chunk):
        counts = generator.multinomial(n, np.full(n, 1.0 / n), size=min(chunk, draws - start))
        sums.append(counts @ flat)
    return np.concatenate(sums).reshape(draws, *per_unit.shape[1:])


def bootstrap(
    per_unit: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a statistic of sums.

    Args:
      per_unit: [n, ...] sums of each independent unit.
      statistic: maps sums [draws, ...] to values [draws]; it sees ``per_unit.sum(0)[None]`` for the point estimate.
    """
    per_unit = np.asarray(per_unit, np.float64)
    values = np.asarray(statistic(draw_sums(per_unit, draws=draws, seed=seed)), np.float64)
    point = float(np.asarray(statistic(per_unit.sum(0)[None]))[0])
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return Interval(point, float(low), float(high), level, len(per_unit))


def mean(
    values: np.ndarray,
    units: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean of ``values`` [n] with its interval; ``units`` names each value's cluster where they are not independent.

    A bootstrap of 0/1 values that are all equal has no width, which would claim certainty; there Wilson's score
    interval is given instead, and ``method`` says so.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"mean takes a non-empty vector of values, got shape {values.shape}")
    if units is None and np.all(values == values[0]) and values[0] in (0.0, 1.0):
        return wilson(int(values.sum()), len(values), level=level)
    if units is None:
        return bootstrap(values, lambda sums: sums / len(values), draws=draws, level=level, seed=seed)
    if len(units) != len(values):
        raise ValueError(f"{len(units)} unit labels for {len(values)} values")
    _, index = np.unique(np.asarray([str(unit) for unit in units]), return_inverse=True)
    per_unit = np.zeros((index.max() + 1, 2))
    np.add.at(per_unit, index, np.stack([values, np.ones_like(values)], 1))
    return bootstrap(per_unit, lambda sums: sums[:, 0] / sums[:, 1], draws=draws, level=level, seed=seed)


def wilson(successes: int, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share (Wilson 1927); exact enough at 0 % and 100 %, where the bootstrap is not."""
    from scipy.stats import norm

    z = float(norm.ppf(1 - (1 - level) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # At 0 of n and n of n the bound is the share itself; rounding must not move it to the wrong side.
    return Interval(share, min(low, share), max(high, share), level, n, method="wilson")
