"""The sections of a study's report, each from what its cells measured; without a measurement there is no section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.report import format as text
from pivot_jax.report import plots, tables
from pivot_jax.report.content import Column, Figure, Listing, Section, Table, Value
from pivot_jax.study import across
from pivot_jax.study.matrix import ARM, SEED, study_name
from pivot_jax.study.results import Condition, Endpoint, Results, title
from pivot_jax.study.store import Outcome

OPEN = 6  # conditions, from which on their tables are shown on demand
REWARDS = "pairs"  # the kind of measurements with a section of its own
CURVES = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "reward",
          "completions/mean_length", "entropy", "grad_norm")  # fmt: skip


def endpoints(results: Results, group: str) -> Section:
    """Scores of the arms by a group of endpoints, and their differences with corrected p-values."""
    blocks: list[Any] = []
    many = len(results.conditions) > OPEN
    for condition in results.conditions:
        where = title(condition, results.conditions)
        measured = scores(results, condition, results.study.endpoints[group])
        gaps, adjusted = differences(results, condition, results.study.endpoints[group])
        if not gaps:
            continue
        suffix = f": {where}" if where else ""
        random = "seed and item random" if len(results.study.seeds) > 1 else "items random, of one seed"
        note = (
            f"In brackets: 95 % intervals with {random}. ▲ ▼: the interval excludes zero. p: for all "
            f"{sum(map(len, gaps.values()))} differences of this table together (Holm)."
        )
        beside = _beside_published(results, condition, group, measured)
        shown = tables.scores(f"Scores{suffix}", beside, row_title="Arm")
        compared = tables.differences(f"Differences on the same items{suffix}", gaps, p_values=adjusted, note=note)
        runs = {arm: anchor(results, condition, arm) for arm in results.arms(condition)}
        sources = {results.study.arms[arm].title: name for arm, name in runs.items()}
        pairs = {comparison(results, pair): runs[pair[0]] for pair in results.comparisons(condition)}
        blocks += [
            replace(shown, sources=sources, closed=many),
            replace(compared, sources=pairs, closed=many),
            _detectable(gaps, measured, suffix),
            Figure(f"Differences in points{suffix}", plots.forest(gaps, zero=True)),
        ]
    blocks += across.curves(results, group)
    about = "" if group != next(iter(results.study.endpoints)) else (
        "The first column is the primary endpoint, by which the summary answers the question. All arms share items and "
        "seeds, so every comparison is paired."
    )  # fmt: skip
    return Section(group, about, tuple(blocks))


def scores(results: Results, condition: Condition, chosen: Mapping[str, Endpoint]) -> dict[str, dict[str, Interval]]:
    """Arm's title → endpoint → interval."""
    out: dict[str, dict[str, Interval]] = {}
    for arm in results.arms(condition):
        found = {name: results.score(condition, arm, endpoint) for name, endpoint in chosen.items()}
        if row := {name: value for name, value in found.items() if value is not None}:
            out[results.study.arms[arm].title] = row
    return out


def _beside_published(
    results: Results, condition: Condition, group: str, measured: Mapping[str, Mapping[str, Interval]]
) -> dict[str, dict[str, Value]]:
    """Scores with a paper's numbers in columns of their own, where it has the same setting."""
    out: dict[str, dict[str, Value]] = {}
    for arm in results.arms(condition):
        row = measured.get(results.study.arms[arm].title, {})
        beside: dict[str, Value] = {}
        for name, value in row.items():
            beside[name] = value
            found = results.published(condition, arm, group, name)
            if found is not None:
                beside[f"{name}, published"] = found
        if beside:
            out[results.study.arms[arm].title] = beside
    return out


def anchor(results: Results, condition: Condition, arm: str) -> str:
    """Where the page lists the runs behind an arm's numbers."""
    return f"runs-{results.conditions.index(condition)}-{arm}"


def differences(
    results: Results, condition: Condition, chosen: Mapping[str, Endpoint]
) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, float]]]:
    """Comparison → endpoint → paired difference, and its p-value adjusted for all of them (Holm)."""
    gaps: dict[str, dict[str, Interval]] = {}
    for pair in results.comparisons(condition):
        found = {name: results.gap(condition, *pair, endpoint) for name, endpoint in chosen.items()}
        if row := {name: gap for name, gap in found.items() if gap is not None}:
            gaps[comparison(results, pair)] = row
    p = {(name, metric): gap.p for name, row in gaps.items() for metric, gap in row.items() if np.isfinite(gap.p)}
    adjusted = statistics.holm(p)
    return gaps, {name: {m: adjusted[name, m] for m in row if (name, m) in adjusted} for name, row in gaps.items()}


def comparison(results: Results, pair: tuple[str, str]) -> str:
    return " − ".join(results.study.arms[arm].title.removeprefix("+ ") for arm in pair)


def _detectable(
    gaps: Mapping[str, Mapping[str, Interval]], measured: Mapping[str, Mapping[str, Interval]], suffix: str
) -> Table:
    """What each comparison could have found, and its size in units that do not depend on the level."""
    metrics = list(dict.fromkeys(metric for row in gaps.values() for metric in row))
    columns, rows = [], []
    for metric in metrics:
        columns += [
            Column(metric, "%", signed=True, note="smallest true difference that 4 of 5 such studies would find"),
            Column("h", digits=2, note=f"{metric}: Cohen's effect size of two shares; 0.2 is small, 0.5 medium"),
        ]
    means = {name.removeprefix("+ "): row for name, row in measured.items()}
    for name, row in gaps.items():
        first, second = name.split(" − ")
        values: list[Value] = []
        for metric in metrics:
            gap = row.get(metric)
            both = [means.get(arm, {}).get(metric) for arm in (first, second)]
            size = None if None in both else statistics.cohen_h(*(one.value for one in both if one is not None))
            values += [None if gap is None else gap.detectable, size]
        rows.append((name, tuple(values)))
    return Table(f"Detectable differences and effect sizes{suffix}", tuple(columns), tuple(rows), "", "Comparison")


def controls(results: Results) -> Section | None:
    """Does the model use the image at all?"""
    blocks: list[Any] = []
    first = next(iter(results.study.arms))
    for condition in results.conditions:
        rows: dict[str, dict[str, Value]] = {}
        for name, endpoint in results.study.controls.items():
            value = results.score(condition, first, endpoint)
            if value is not None:
                rows[name] = {"accuracy": value, **_by_category(results, condition, endpoint)}
        if rows:
            where = title(condition, results.conditions)
            blocks.append(tables.scores(f"Test questions{f': {where}' if where else ''}", rows, row_title="Model"))
    if not blocks:
        return None
    about = (
        "Arms are worth comparing only if the model uses the image at all: its accuracy on unseen questions beside "
        "that of the same model without the image and of the most frequent answer in the training data."
    )
    stages = [name for name in results.study.stages if name in {one[0] for one in results.study.controls.values()}]
    return Section("Controls", about, (*blocks, *_curves(results, stages)))


def _by_category(results: Results, condition: Condition, endpoint: Endpoint) -> dict[str, Value]:
    """Accuracy per kind of question, where the measurement has categories."""
    cells = results.cells(condition, next(iter(results.study.arms)), endpoint[0])
    found = results.measured(cells[0], *endpoint[:2]) if cells else None
    if found is None or "category" not in found.items:
        return {}
    items = results.items(condition, cells[0].levels[ARM], endpoint)
    assert items is not None
    names, of = found.numbers["categories"], found.items["category"]
    return {name: statistics.over_seeds(items[:, of == i]) for i, name in enumerate(names) if (of == i).any()}


def rewards(results: Results) -> Section | None:
    """Implicit rewards of the arms on pairs."""
    blocks: list[Any] = []
    for condition in results.conditions:
        rows, names = [], []
        for arm in results.arms(condition):
            outcomes = [_of_kind(results, cell, REWARDS) for cell in results.cells(condition, arm)]
            if not outcomes or None in outcomes:
                continue
            values: list[Value] = []
            names = [name for name in outcomes[0].items]  # type: ignore[union-attr]
            for name in names:
                margins = np.stack([one.items[name] for one in outcomes if one is not None]).astype(float)
                values += [statistics.over_seeds((margins > 0).astype(float)), statistics.over_seeds(margins)]
            rows.append((results.study.arms[arm].title, tuple(values)))
        if rows:
            columns = [c for n in names for c in (Column(f"accuracy, {n}", "%"), Column(f"margin, {n}", digits=2))]
            where = title(condition, results.conditions)
            suffix = f": {where}" if where else ""
            blocks.append(Table(f"Implicit rewards{suffix}", tuple(columns), tuple(rows), row_title="Arm"))
    if not blocks:
        return None
    stages = list(dict.fromkeys(arm.stage for arm in list(results.study.arms.values())[1:]))
    return Section(
        "Post-training",
        "The implicit reward of an answer is β times its log-ratio to the run that post-training started from. A pair "
        "counts as correct if the chosen answer has the larger reward. It is computed for every arm, whether or not "
        "the arm was trained on pairs.",
        (*blocks, *_curves(results, stages)),
    )


def _of_kind(results: Results, cell: Any, kind: str) -> Outcome | None:
    names = [name for name, one in results.study.measures.items() if one.get("kind", name) == kind]
    found = (results.measured(cell, ARM, name) for name in names)
    return next((one for one in found if one is not None), None)


def _curves(results: Results, stages: list[str]) -> list[Figure]:
    """Training curves of stages, from the results, so that they do not need the checkpoints."""
    runs = {
        stage: [one.numbers["curves"] for _, one in results.runs(stage) if one.numbers.get("curves")]
        for stage in stages
    }
    runs = {stage: found for stage, found in runs.items() if found}
    rows = {
        s: [[dict(zip(c, v, strict=True)) for v in zip(*c.values(), strict=True)] for c in r] for s, r in runs.items()
    }
    shown = [m for m in CURVES if any(m in row for seeds in rows.values() for one in seeds for row in one[:1])]
    return [Figure("Training", plots.training_curves(rows, shown))] if shown else []


def costs(results: Results, seconds: float, overhead: str) -> Section:
    """Parameters, time and operations of the stages."""
    spent, trained = [], []
    for stage in results.study.stages:
        found = [one.numbers for _, one in results.runs(stage)]
        if not found:
            continue
        sums = {key: sum(one[key] for one in found) for key in ("steps", "samples", "seconds", "flops")}
        spent.append(
            tables.Cost(stage, len(found), int(sums["steps"]), sums["seconds"], sums["flops"], int(sums["samples"]))
        )
        for row in found[0]["trained"]:
            rate = None if isinstance(row["rate"], str) else row["rate"]
            trained.append(tables.Trained(stage, row["group"], row["parameters"], rate))
    cells, runs = len(results.graph.cells), len(results.graph.runs)
    wall = f" The whole study took {text.duration(seconds)} of wall time. {overhead}" if seconds else ""
    return Section(
        "Trained parameters and cost",
        f"{cells} cells share {runs} training runs in {len(results.graph.jobs)} jobs.{wall}",
        (
            tables.costs("Training, summed over runs", spent),
            tables.trained_parameters("Trained parameters and peak learning rates", trained),
            *_runs(results),
            Listing("The study's file", results.study.file.read_text()),
        ),
    )


def _runs(results: Results) -> list[Table]:
    """What made the numbers: for each condition, the finished runs of every arm, with their configs and results."""
    columns = (
        Column("Config", link="runs/{}/config.json", note="of the run; in the study's folder"),
        Column("Result", link="results/{}.json"),
        Column("Steps"),
        Column("Hash of the config"),
        Column("Command"),
    )
    found = []
    for condition in results.conditions:
        rows: list[tuple[str, tuple[Value, ...]]] = []
        anchors: dict[str, str] = {}
        for arm in results.arms(condition):
            for cell in results.cells(condition, arm):
                for stage, key in cell.runs.items():
                    one = results.run(key)
                    if one is None:
                        continue
                    name = f"{results.study.arms[arm].title}, seed {cell.levels[SEED]}, {stage}"
                    anchors.setdefault(anchor(results, condition, arm), name)
                    key = one.numbers.get("chosen", key)
                    command = f"pivot-jax study {study_name(results.study.file)} --until {stage}"
                    rows.append((name, (key, key, one.numbers["steps"], one.numbers.get("config", ""), command)))
        where = title(condition, results.conditions)
        heading = f"Runs behind the numbers{f': {where}' if where else ''}"
        names = {row: name for name, row in anchors.items()}
        found.append(Table(heading, columns, tuple(rows), "", "Arm, seed, stage", anchors=names, closed=True))
    return [table for table in found if table.rows]
