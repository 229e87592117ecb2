"""Aggregates over parts of a benchmark: accuracies of parts, and means of means (over sources, categories, …)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pivot_jax.eval.scoring.aggregate import (
    Aggregate,
    Scored,
    Summary,
    accuracy,
    of_sums,
    positions,
    ratio,
    scores_of,
    units_of,
)
from pivot_jax.eval.statistics import Interval

Label = Callable[[Scored], Hashable]  # the part that a question is in; None or "": in none


@dataclass(frozen=True)
class Number:
    """One number of a benchmark.

    Attributes:
      over: labels, outermost first: the mean over values of the first one of the mean over values of the second one, …,
        of the accuracy. (): the accuracy of all questions.
      each: a label; there is one such number for each of its values, which follows the number's own name.
    """

    over: tuple[Label, ...] = ()
    each: Label | None = None


def field_of(name: str) -> Label:
    """The label in a field of the question."""
    return lambda row: row.gold.fields.get(name)


def category(row: Scored) -> Hashable:
    """The question's category."""
    return row.gold.category


def numbers(metric: str, named: Mapping[str, Number], units: str = "") -> Aggregate:
    """Several numbers of the same questions.

    Args:
      metric: the headline, one of ``named``.
      named: name → number. A question that has no value of a label is left out of that number.
      units: as :class:`Aggregate`.
    """

    def summarise(rows: Sequence[Scored], seed: int) -> Summary:
        found: dict[str, Interval] = {}
        for name, number in named.items():
            for value, own in _parts(rows, number.each).items():
                if kept := [row for row in own if all(label(row) not in (None, "") for label in number.over)]:
                    found[f"{name}{value}"] = _value(kept, number.over, bool(units), seed)
        return Summary(metric, found.pop(metric), found)

    return Aggregate(summarise, units)


def _parts(rows: Sequence[Scored], label: Label | None) -> dict[Hashable, Sequence[Scored]]:
    if label is None:
        return {"": rows}
    own = positions([label(row) for row in rows])
    return {value: [rows[at] for at in where] for value, where in own.items() if value not in (None, "")}


def _value(rows: Sequence[Scored], over: tuple[Label, ...], drawn: bool, seed: int) -> Interval:
    units = units_of(rows) if drawn else None
    if not over:
        return accuracy(scores_of(rows), units, seed=seed)
    paths = [tuple(label(row) for label in over) for row in rows]
    cells = list(dict.fromkeys(paths))
    sums = np.zeros((len(rows), 2, len(cells)))
    for one, row, path in zip(sums, rows, paths, strict=True):
        one[:, cells.index(path)] = float(row.verdict), 1
    value = lambda drawn_sums: _mean(ratio(drawn_sums[:, 0], drawn_sums[:, 1]), cells)  # noqa: E731
    return of_sums(sums, {"": value}, units, seed=seed)[""]


def _mean(accuracies: np.ndarray, cells: Sequence[tuple[Hashable, ...]]) -> np.ndarray:
    """Nested mean [draws] of the accuracies [draws, cells], by the first label, then the second, …"""
    if not cells[0]:
        return accuracies[:, 0]
    parts = positions([cell[0] for cell in cells]).values()
    means = [_mean(accuracies[:, own], [cells[at][1:] for at in own]) for own in parts]
    return np.asarray(np.mean(means, axis=0))
