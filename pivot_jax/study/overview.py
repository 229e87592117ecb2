"""What a study will do and cost, before it does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pivot_jax.report import format as text
from pivot_jax.study import budget
from pivot_jax.study.graph import Graph, Job
from pivot_jax.study.matrix import WITHOUT, holds
from pivot_jax.words import counted


@dataclass(frozen=True)
class Row:
    """The runs of one stage. Steps, FLOPs and hours are those of the runs that are left to do."""

    stage: str
    runs: int
    left: int
    measurements: int  # left to take
    steps: int
    flops: float
    hours: float


@dataclass(frozen=True)
class Overview:
    rows: tuple[Row, ...]
    lines: tuple[str, ...]


def overview(graph: Graph, jobs: Sequence[Job]) -> Overview:
    """A row per stage, and sentences about cells, sharing, hours and each table."""
    chosen = [key for job in jobs for key in job.runs]
    trained = [key for key, run in graph.runs.items() if not run.trials]
    rows = []
    for stage in dict.fromkeys(run.stage for run in graph.runs.values()):
        keys = [key for key, run in graph.runs.items() if run.stage == stage]
        mine = [key for key in keys if key in chosen and key in trained and not graph.available(key)]
        lacking = sum(len(graph.missing(key)) for key in keys if key in chosen)
        steps = sum(graph.runs[key].steps for key in mine)
        flops = sum(graph.runs[key].flops for key in mine)
        hours = sum(budget.minutes(graph, key) for key in mine) / 60
        rows.append(Row(stage, sum(key in trained for key in keys), len(mine), lacking, steps, flops, hours))
    hours, flops = sum(row.hours for row in rows), sum(row.flops for row in rows)
    separate = sum(budget.minutes(graph, key) for cell in graph.cells for key in cell.runs.values()) / 60
    whole = sum(budget.minutes(graph, key) for key in graph.runs) / 60
    lines = [
        f"{counted(len(graph.cells), 'cell')} need {counted(len(trained), 'training run')}; "
        f"{counted(len(jobs), 'job')} to do, {len(graph.jobs) - len(jobs)} finished",
        f"{hours:,.1f} hours of jobs{f', {text.si(flops)} FLOPs' if flops else ''}; the whole study "
        f"{whole:,.1f} hours, {separate:,.1f} if cells shared nothing",
        *_machine(graph, hours),
        *_tables(graph),
    ]
    return Overview(tuple(rows), tuple(lines))


def _machine(graph: Graph, hours: float) -> list[str]:
    machine = graph.study.machine
    if "chip" not in machine:
        return []
    about = f"{machine['chips']} x {machine['chip']} at {machine['mfu']:.0%} of their peak"
    return [
        f"hours are those of {about}: {hours * machine['chips']:,.0f} chip-hours; data and measurements not counted"
    ]


def _tables(graph: Graph) -> list[str]:
    """Cells and cost of each table of the study by itself: tables share runs."""
    lines = []
    for title, chosen in graph.study.tables.items():
        cells = [cell for cell in graph.cells if holds(chosen, cell.levels)]
        unused = chosen.get(WITHOUT, ())
        keys = {key for cell in cells for stage, key in cell.runs.items() if stage not in unused}
        flops = sum(graph.runs[key].flops for key in keys)
        hours = sum(budget.minutes(graph, key) for key in keys) / 60
        lines.append(f"  {title}: {counted(len(cells), 'cell')}, {counted(len(keys), 'run')}, "
                     f"{hours:,.1f} hours{f', {text.si(flops)} FLOPs' if flops else ''}")  # fmt: skip
    return lines
