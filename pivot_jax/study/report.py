"""A study's report: an answer in three sentences, then the tables and figures behind it."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.parallel.chips import processor
from pivot_jax.report import export, page
from pivot_jax.report import format as text
from pivot_jax.report.content import Fact, Report
from pivot_jax.study import across, illustrations, sections
from pivot_jax.study.graph import Graph
from pivot_jax.study.matrix import study_name
from pivot_jax.study.results import Condition, Results, title

PACKAGES = ("pivot-jax", "jax", "flax", "optax", "transformers")


def write_report(graph: Graph) -> Path:
    """Writes ``report.html``, its tables and charts in ``report/``, and ``results.json``; returns the page's path."""
    results = Results(graph)
    report = build(results)
    files.write_text(graph.root / "results.json", json.dumps(results.numbers(), indent=1, sort_keys=True))
    export.write(report, graph.root / "report")
    return page.write(report, graph.root / "report.html")


def build(results: Results) -> Report:
    """The report of what is finished."""
    study = results.study
    first, *others = study.endpoints
    found = (
        across.declared(results),
        sections.endpoints(results, first),
        sections.controls(results),
        sections.rewards(results),
        *(sections.endpoints(results, group) for group in others),
        illustrations.examples(results),
        illustrations.maps(results),
        sections.costs(results, _seconds(results.graph.root), overhead(results.graph)),
    )
    return Report(
        title=study.title,
        subtitle=study.subtitle,
        facts=_facts(results),
        summary=summary(results),
        sections=tuple(section for section in found if section is not None and section.blocks),
        scope=(_of_seeds(len(study.seeds)), *study.scope),
        provenance=_provenance(results.graph),
    )


def _of_seeds(count: int) -> str:
    """What the intervals are about."""
    if count == 1:
        return "One training seed: intervals are of these models over the items. Another seed may differ by more."
    few = ", and so few seeds make them wide" if count < 4 else ""
    return (
        f"Intervals take {count} training seeds and the items as random: they are about the method, not about these "
        f"models{few}."
    )


def summary(results: Results) -> str:
    """Three sentences for each condition: the arms against the baseline, against no post-training, and what was
    detectable."""
    name, endpoint = next(iter(next(iter(results.study.endpoints.values())).items()))
    lines = []
    for condition in results.conditions:
        where = title(condition, results.conditions)
        gaps, adjusted = sections.differences(results, condition, {name: endpoint})
        if not gaps:
            continue
        against: dict[str, dict[str, tuple[Interval, float]]] = {}
        for arm, reference in results.comparisons(condition):
            label = sections.comparison(results, (arm, reference))
            if label in gaps:
                against.setdefault(reference, {})[arm] = gaps[label][name], adjusted[label].get(name, 1.0)
        begin = f"{where[0].upper()}{where[1:]}: " if where else ""
        said = [_against(results, name, reference, found) for reference, found in against.items()]
        needed = sorted({_points(row[name].detectable) for row in gaps.values()}, key=float)
        which = f"{needed[0]} points"
        if len(needed) > 1:
            which = f"{needed[0]} to {needed[-1]} points, depending on the arm,"
        said.append(f"A true difference would have to be {which} to be found in four of five such studies.")
        if len(results.study.seeds) == 1:
            said.append("All of this is about one training seed.")
        lines.append(begin + " ".join(said))
    return "\n\n".join(lines)


def _against(results: Results, name: str, reference: str, found: dict[str, tuple[Interval, float]]) -> str:
    """One sentence: which arms differ from a reference on the primary endpoint, after correction."""
    arms = results.study.arms
    clear = {arm: gap for arm, (gap, p) in found.items() if p < 1 - statistics.LEVEL}
    base = arms[reference].title.removeprefix("+ ")
    if not clear:
        low, high = (_points(f(gap.value for gap, _ in found.values()), signed=True) for f in (min, max))
        spread = f"the difference is {low} points" if len(found) == 1 else f"differences are {low} to {high} points"
        spread = f"each difference is {low} points" if len(found) > 1 and low == high else spread
        who = arms[next(iter(found))].title.removeprefix("+ ") if len(found) == 1 else "no arm"
        verb = "does not clearly differ" if len(found) == 1 else "clearly differs"
        return f"In “{name}”, {who} {verb} from {base} ({spread})."
    told = ", ".join(
        f"{arms[arm].title.removeprefix('+ ')} is {'better' if gap.value > 0 else 'worse'} than {base} by "
        f"{_points(abs(gap.value))} points ({_points(gap.low, signed=True)} to {_points(gap.high, signed=True)})"
        for arm, gap in clear.items()
    )
    rest = len(found) - len(clear)
    return f"In “{name}”, {told}{f'; {rest} of {len(found)} arms do not clearly differ' if rest else ''}."


def _points(value: float, *, signed: bool = False) -> str:
    return text.number(value, unit="%", signed=signed)


def _facts(results: Results) -> tuple[Fact, ...]:
    """Control, and the primary endpoint of each arm against the baseline."""
    condition: Condition = results.conditions[0]
    first = next(iter(results.study.arms))
    facts: list[Fact] = []
    endpoints = [tuple(one) for one in results.study.controls.values()][:2]
    if len(endpoints) == 2:
        seeing, blind = (results.items(condition, first, one) for one in endpoints)  # type: ignore[arg-type]
        if seeing is not None and blind is not None:
            names = list(results.study.controls)
            gap = statistics.difference(seeing, blind)
            facts.append(Fact(f"{names[0]} over {names[1].lower()}", gap, "%", "accuracy", signed=True))
    name, endpoint = next(iter(next(iter(results.study.endpoints.values())).items()))
    for pair in results.comparisons(condition):
        gap = results.gap(condition, *pair, endpoint)  # type: ignore[assignment]
        if gap is not None and pair[1] == results.study.baseline:
            facts.append(Fact(sections.comparison(results, pair), gap, "%", name, signed=True))
    if seconds := _seconds(results.graph.root):  # 0 where only the results are there
        facts.append(Fact("Wall time", text.duration(seconds)))
    return tuple(facts)


def overhead(graph: Graph) -> str:
    """What starting processes and the workflow engine cost, from the times of the jobs."""
    times = [
        json.loads(path.read_text()) for key in graph.jobs if (path := graph.root / "jobs" / f"{key}.json").is_file()
    ]
    if not times:
        return ""
    start, work = sum(one["startup_s"] for one in times), sum(one["work_s"] for one in times)
    busy, until = 0.0, 0.0
    for one in sorted(times, key=lambda one: one["started"]):
        busy += max(0.0, one["ended"] - max(until, one["started"]))
        until = max(until, one["ended"])
    wall = _seconds(graph.root)
    engine = f"; {max(0.0, 1 - busy / wall):.1%} of the wall time had no job running" if wall >= busy else ""
    return (
        f"Starting Python and JAX took {start / (start + work):.1%} of the jobs' {text.duration(start + work)}{engine}."
    )


def _seconds(root: Path) -> float:
    path = root / "seconds.json"
    return float(json.loads(path.read_text())) if path.is_file() else 0.0


def _provenance(graph: Graph) -> dict[str, Any]:
    return {
        "command": f"pivot-jax study {study_name(graph.study.file)}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "training seeds": ", ".join(map(str, graph.study.seeds)),
    }
