"""Scores of whole benchmarks from the verdicts on single answers, each with an interval over its independent units.

Rows are grouped by their ``unit``, never by their order in a file. An interval resamples units: a statistic of *sums*
over units (a mean, an F1, MME's points) is computed from resampled sums (see ``statistics.bootstrap``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from pivot_jax.eval import statistics
from pivot_jax.eval.scoring.scorers import Gold, Verdict
from pivot_jax.eval.statistics import Interval

Label = TypeVar("Label", bound=Hashable)
Sums = Callable[[np.ndarray], np.ndarray]  # sums [draws, k] → values [draws]


@dataclass(frozen=True)
class Scored:
    """An answered question with the verdict on the answer."""

    id: str
    verdict: Verdict
    gold: Gold
    unit: Hashable = None


@dataclass(frozen=True)
class Summary:
    """The numbers of a benchmark.

    Attributes:
      metric, value: the benchmark's score.
      others: further numbers by name.
      percent: numbers are shares 0..1, to be shown as percent; else they are points, shown as they are.
    """

    metric: str
    value: Interval
    others: dict[str, Interval] = field(default_factory=dict)
    percent: bool = True


@dataclass(frozen=True)
class Aggregate:
    """How the verdicts on all questions become the benchmark's score.

    Attributes:
      summarise: from rows and the seed of the resampling.
      units: what questions of one unit have to do with each other: "" nothing; "cluster": they share something (an
        image), so intervals draw them whole; "group": they count together, and only where all are right.
      whole: part of a unit has another score than all of it (MME's acc⁺), so a limit of questions takes units whole, as
        those of "group".
    """

    summarise: Callable[[Sequence[Scored], int], Summary]
    units: str = ""
    whole: bool = False


def accuracy(scores: Sequence[float], units: Sequence[Hashable] | None = None, *, seed: int = 0) -> Interval:
    """Mean score; ``units`` [n] are drawn whole, where scores of one unit are not independent."""
    return statistics.mean(np.asarray(scores, float), units, seed=seed)


def all_correct(scores: Sequence[float], units: Sequence[Hashable]) -> np.ndarray:
    """1 for each unit in which every answer is right, else 0: float64 [u], in order of first appearance.

    MMVP pairs (both of a pair), MMBench circular (all rotations of a question), MME acc⁺ (both questions of an image).
    """
    if len(scores) != len(units):
        raise ValueError(f"{len(units)} unit labels for {len(scores)} scores")
    correct: dict[Hashable, bool] = {}
    for score, unit in zip(scores, units, strict=True):
        correct[unit] = correct.get(unit, True) and score >= 1.0
    return np.array(list(correct.values()), float)


def unit_accuracy(scores: Sequence[float], units: Sequence[Hashable], *, seed: int = 0) -> Interval:
    """Mean of :func:`all_correct`; units are resampled."""
    return statistics.mean(all_correct(scores, units), seed=seed)


def by_category(
    scores: Sequence[float], categories: Sequence[str], units: Sequence[Hashable] | None = None
) -> dict[str, Interval]:
    """:func:`accuracy` per category, in order of first appearance."""
    return {
        name: accuracy([scores[row] for row in own], None if units is None else [units[row] for row in own])
        for name, own in positions(categories).items()
    }


def positions(labels: Sequence[Label]) -> dict[Label, list[int]]:
    """Label → positions at which it occurs, in order of first appearance."""
    found: dict[Label, list[int]] = {}
    for position, label in enumerate(labels):
        found.setdefault(label, []).append(position)
    return found


def of_sums(
    sums: np.ndarray,
    values: Mapping[str, Sums],
    units: Sequence[Hashable] | None = None,
    *,
    shares: bool = True,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of statistics of sums over questions.

    A share of 0 or 1 in every draw would have an interval without a width; it has Wilson's, as a mean has.

    Args:
      sums: float [n, k], what each question adds to the k sums.
      values: name → statistic of the sums [draws, k].
      units: of each question; drawn whole. None: every question by itself.
      shares: the statistics are shares, 0..1; else points.
    """
    per_unit = np.asarray(sums, float)
    if units is not None:
        per_unit = np.stack([per_unit[own].sum(0) for own in positions(units).values()])
    found = statistics.bootstraps(per_unit, values, seed=seed)
    return {name: _with_width(one) if shares else one for name, one in found.items()}


def _with_width(share: Interval) -> Interval:
    certain = share.low == share.high and share.value in (0.0, 1.0)
    return statistics.wilson(int(share.value) * share.n, share.n) if certain else share


def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """``over / under``, 0 where ``under`` is 0: a share of nothing."""
    return np.divide(over, under, out=np.zeros(np.broadcast_shapes(over.shape, under.shape)), where=under > 0)


def scores_of(rows: Sequence[Scored]) -> list[float]:
    """The score of each row."""
    return [float(row.verdict) for row in rows]


def units_of(rows: Sequence[Scored]) -> list[Hashable]:
    """The unit of each row."""
    return [row.unit for row in rows]


def _mean(rows: Sequence[Scored], seed: int) -> Summary:
    return Summary("accuracy", accuracy(scores_of(rows), seed=seed))


def _clustered_mean(rows: Sequence[Scored], seed: int) -> Summary:
    return Summary("accuracy", accuracy(scores_of(rows), units_of(rows), seed=seed))


def grouped(metric: str) -> Aggregate:
    """The share of units in which every answer is right, as ``metric``, and the share of right answers beside it."""

    def summarise(rows: Sequence[Scored], seed: int) -> Summary:
        scores, units = scores_of(rows), units_of(rows)
        every = {"question_accuracy": accuracy(scores, seed=seed)}
        return Summary(metric, unit_accuracy(scores, units, seed=seed), every)

    return Aggregate(summarise, "group")


def macro(metric: str = "macro_accuracy", units: str = "") -> Aggregate:
    """The mean over categories of their accuracies, and the mean over all questions beside it."""

    def summarise(rows: Sequence[Scored], seed: int) -> Summary:
        own = positions([row.gold.category for row in rows])
        sums = np.zeros((len(rows), 2, len(own)))
        for index, members in enumerate(own.values()):
            sums[members, 0, index] = [float(rows[row].verdict) for row in members]
            sums[members, 1, index] = 1
        drawn = units_of(rows) if units else None
        value = of_sums(sums, {metric: lambda found: ratio(found[:, 0], found[:, 1]).mean(-1)}, drawn, seed=seed)
        return Summary(metric, value[metric], {"accuracy": accuracy(scores_of(rows), drawn, seed=seed)})

    return Aggregate(summarise, units)


MEAN = Aggregate(_mean)
CLUSTERED_MEAN = Aggregate(_clustered_mean, "cluster")
PAIRS = grouped("pair_accuracy")
