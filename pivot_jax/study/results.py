"""The results of a study's cells, as arrays and intervals for its report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.probe import segmentation
from pivot_jax.study import store
from pivot_jax.study.graph import Cell, Graph, result_file
from pivot_jax.study.matrix import ARM, SEED
from pivot_jax.study.store import Outcome

Endpoint = tuple[str, str, str]  # stage or "arm", measure, metric
Condition = tuple[tuple[str, str], ...]  # (factor, level) of all factors but arm and seed


def _miou(sums: np.ndarray) -> np.ndarray:
    return segmentation.mean_iou(sums).mean(-1)  # over heads


# Metrics that are no means over items: the items that they come from [n, ...], and the statistic of their sums.
METRICS: Mapping[str, tuple[str, Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "miou": ("overlap", lambda overlap: overlap.swapaxes(0, 1).astype(float), _miou)
}


class Results:
    """Reads the results of a finished study, or of the part of it that is finished."""

    def __init__(self, graph: Graph):
        self.graph, self.study = graph, graph.study
        self._loaded: dict[str, Outcome] = {}

    @cached_property
    def conditions(self) -> list[Condition]:
        """Combinations of levels in which arms are compared, in order of first appearance."""
        return list(dict.fromkeys(_condition(cell) for cell in self.graph.cells))

    def cells(self, condition: Condition, arm: str, stage: str = "") -> list[Cell]:
        """One per seed; of a stage (or ``arm``) those that have it, which may be some seeds only."""
        found = [c for c in self.graph.cells if _condition(c) == condition and c.levels[ARM] == arm]
        return [c for c in found if not stage or self._stage(arm, stage) in c.runs]

    def _stage(self, arm: str, stage: str) -> str:
        return self.study.arms[arm].stage if stage == ARM else stage

    def arms(self, condition: Condition) -> list[str]:
        there = {cell.levels[ARM] for cell in self.graph.cells if _condition(cell) == condition}
        return [arm for arm in self.study.arms if arm in there]

    # Single results --------------------------------------------------------------------------------------------------

    def run(self, key: str) -> Outcome | None:
        """What a run did; None where it is not finished."""
        return self._load(key)

    def measured(self, cell: Cell, stage: str, measure: str) -> Outcome | None:
        """A measurement of a cell's run; None where the cell has none."""
        key = cell.runs.get(self._stage(cell.levels[ARM], stage))
        run = self.graph.runs[key] if key else None
        for one in run.measurements if run else ():
            if one.name == measure:
                return self._load(one.result)
        return None

    def _load(self, name: str) -> Outcome | None:
        if name not in self._loaded:
            path = result_file(self.graph.root, name)
            if not path.is_file():
                return None
            self._loaded[name] = store.load(path)
        return self._loaded[name]

    def items(self, condition: Condition, arm: str, endpoint: Endpoint) -> np.ndarray | None:
        """Scores of single items [seeds, n, ...]; None where a seed has none."""
        stage, measure, metric = endpoint
        name, prepare, _ = METRICS.get(metric, (metric, lambda items: items.astype(float), None))
        found = [self.measured(cell, stage, measure) for cell in self.cells(condition, arm, stage)]
        if not found or any(one is None for one in found):
            return None
        try:
            return np.stack([prepare(one.items[name]) for one in found if one is not None])
        except KeyError:
            have = ", ".join(found[0].items) if found[0] else ""
            raise UserError(f"endpoint: measure '{measure}' has no metric '{metric}' (it has: {have})") from None

    def units(self, condition: Condition, arm: str, endpoint: Endpoint) -> list[int] | None:
        """The unit of each item, such as its image, where items are not independent; None where they are."""
        cells = self.cells(condition, arm, endpoint[0])
        found = self.measured(cells[0], *endpoint[:2]) if cells else None
        return found.items["unit"].tolist() if found is not None and "unit" in found.items else None

    def published(self, condition: Condition, arm: str, group: str, name: str) -> float | None:
        """A paper's number for this condition and arm, as a share; None where there is none."""
        here = {**dict(condition), ARM: arm}
        for levels, percent in self.study.published.get(group, {}).get(name, ()):
            if all(here[factor] == level for factor, level in levels.items()):
                return percent / 100
        return None

    # Intervals -------------------------------------------------------------------------------------------------------

    def score(self, condition: Condition, arm: str, endpoint: Endpoint) -> Interval | None:
        items = self.items(condition, arm, endpoint)
        if items is None:
            return None
        if endpoint[2] in METRICS:
            return statistics.crossed(items, METRICS[endpoint[2]][2])
        return statistics.over_seeds(items, self.units(condition, arm, endpoint))

    def gap(self, condition: Condition, first: str, second: str, endpoint: Endpoint) -> Interval | None:
        """First arm minus second, on the same items and seeds."""
        one, two = (self.items(condition, arm, endpoint) for arm in (first, second))
        seeds = [[c.levels[SEED] for c in self.cells(condition, arm, endpoint[0])] for arm in (first, second)]
        if one is None or two is None or one.shape != two.shape or seeds[0] != seeds[1]:
            return None
        if endpoint[2] in METRICS:
            statistic = METRICS[endpoint[2]][2]
            both = np.stack([one, two], axis=2)  # [seeds, items, arms, ...]
            return statistics.crossed(both, lambda sums: -np.diff(statistic(sums))[..., 0])
        return statistics.difference(one, two, self.units(condition, first, endpoint))

    def comparisons(self, condition: Condition) -> list[tuple[str, str]]:
        """Every arm with the baseline, and with the first arm, the one without post-training."""
        arms = self.arms(condition)
        first = next(iter(self.study.arms))
        pairs = [(arm, self.study.baseline) for arm in arms if arm not in (self.study.baseline, first)]
        return pairs + [(arm, first) for arm in arms if arm != first]

    # Costs -----------------------------------------------------------------------------------------------------------

    def runs(self, stage: str) -> Iterator[tuple[str, Outcome]]:
        """Key and result of each finished run of a stage, trials of a sweep included."""
        for key, run in self.graph.runs.items():
            if run.stage == stage and not run.trials:
                outcome = self._load(key)
                if outcome is not None:
                    yield key, outcome

    def numbers(self) -> dict[str, Any]:
        """By runs and measurements, the numbers that depend on neither time nor folder: to compare two studies."""
        out: dict[str, Any] = {}
        for key, run in self.graph.runs.items():
            for name in (key, *(one.result for one in run.measurements)):
                outcome = self._load(name)
                if outcome is not None:
                    out[name] = _comparable(outcome.numbers)
        return out


def _condition(cell: Cell) -> Condition:
    return tuple((factor, level) for factor, level in cell.levels.items() if factor not in (ARM, SEED))


def _comparable(numbers: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in numbers.items() if k not in ("seconds", "flops", "curves", "config")}
    if "metrics" in kept:
        kept["metrics"] = {k: v for k, v in kept["metrics"].items() if not k.startswith("perf/")}
    return kept


def title(condition: Condition, conditions: Sequence[Condition]) -> str:
    """``encoder naflex, data under30``, of the factors that differ within the study; "" where none does."""
    vary = {factor for one in conditions for factor, level in one if (factor, level) not in conditions[0]}
    return ", ".join(f"{factor} {level}" for factor, level in condition if factor in vary)
