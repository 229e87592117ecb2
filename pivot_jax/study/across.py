"""What a study's report compares across conditions: its declared tables, and curves over the levels of one factor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pivot_jax.report import plots, tables
from pivot_jax.report.content import Figure, Section, Value
from pivot_jax.study.matrix import ARM, WITHOUT, holds
from pivot_jax.study.results import Condition, Endpoint, Results, title


def declared(results: Results) -> Section | None:
    """One table for each of the study's, as a paper prints it: a row per arm and condition, a column per endpoint."""
    blocks = []
    for name, chosen in results.study.tables.items():
        cells = [
            (condition, arm)
            for condition in results.conditions
            for arm in results.arms(condition)
            if holds(chosen, {**dict(condition), ARM: arm})
        ]
        conditions = list(dict.fromkeys(condition for condition, _ in cells))
        rows: dict[str, dict[str, Value]] = {}
        for condition, arm in cells:
            where = title(condition, conditions)
            label = results.study.arms[arm].title
            row = dict(_row(results, condition, arm, tuple(chosen.get(WITHOUT, ()))))
            if row:
                rows[f"{where}: {label}" if where else label] = row
        if rows:
            blocks.append(tables.scores(name, rows, row_title="Condition and arm"))
    return Section("Tables", "Scores with 95 % intervals over seeds and items.", tuple(blocks)) if blocks else None


def _row(results: Results, condition: Condition, arm: str, unused: tuple[str, ...]) -> Iterator[tuple[str, Value]]:
    """(column, value) of the endpoints that the table's stages have."""
    several = len(results.study.endpoints) > 1
    for group, chosen in results.study.endpoints.items():
        for name, endpoint in chosen.items():
            value = None if endpoint[0] in unused else results.score(condition, arm, endpoint)
            if value is not None:
                column = f"{name} ({endpoint[0]})" if several and endpoint[0] != ARM else name
                yield column, value
                published = results.published(condition, arm, group, name)
                if published is not None:
                    yield f"{column}, published", published


def curves(results: Results, group: str) -> list[Figure]:
    """The primary endpoint of each arm against the levels of a factor, all other factors being the same."""
    name, endpoint = next(iter(results.study.endpoints[group].items()))
    found = []
    for factor, levels in results.study.factors.items():
        others: dict[Condition, list[Condition]] = {}
        for condition in results.conditions:
            others.setdefault(tuple(one for one in condition if one[0] != factor), []).append(condition)
        for fixed, conditions in others.items():
            series = _series(results, endpoint, factor, list(levels), conditions)
            if any(len(x) > 1 for x, _ in series.values()):
                where = title(fixed, list(others))
                label = f"{factor}: {', '.join(f'{i} {level}' for i, level in enumerate(levels))}"
                chart = plots.lines(series, xlabel=label, ylabel=f"{name} (%)")
                found.append(Figure(f"{name} by {factor}{f': {where}' if where else ''}", chart))
    return found


def _series(
    results: Results, endpoint: Endpoint, factor: str, levels: list[str], conditions: list[Condition]
) -> dict[str, Any]:
    """Arm → (numbers of the levels, scores in percent)."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for condition in sorted(conditions, key=lambda one: levels.index(dict(one)[factor])):
        for arm in results.arms(condition):
            value = results.score(condition, arm, endpoint)
            if value is not None:
                x, y = found.setdefault(results.study.arms[arm].title, ([], []))
                x.append(levels.index(dict(condition)[factor]))
                y.append(100 * value.value)
    return found
