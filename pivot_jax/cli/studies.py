"""``demo`` and ``study``: a declared matrix of arms, factors and seeds on a workflow engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from pivot_jax.cli import outputs, tables
from pivot_jax.cli.commands import Overrides, stoppable

DEMO = "demo/study.py"


def demo(args: argparse.Namespace, overrides: Overrides) -> int:
    """The packaged study in miniature, or the one in a folder of one's own."""
    from pivot_jax.study import run

    own = Path(args.configs, "study.py") if args.configs else Path("configs", DEMO)
    spec = str(own) if args.configs or own.is_file() else DEMO
    workdir = _workdir(args, spec)
    outputs.folder(workdir, "--workdir")
    return stoppable(lambda: run.run(spec, workdir))


def study(args: argparse.Namespace, overrides: Overrides) -> int:
    from pivot_jax.study import run, workflow

    workdir = _workdir(args, args.study)
    if args.dry_run:
        return _show(args.study, workdir, args.until)
    outputs.folder(workdir, "--workdir")
    if args.report:
        print(f"report: {run.report(args.study, workdir)}")
        return 0
    options = workflow.Options(args.cores, args.profile, args.jobs or workflow.JOBS)
    choice = run.Choice(tuple(args.until), tuple(args.forcerun))
    return stoppable(lambda: run.run(args.study, workdir, choice, options))


def _show(spec: str, workdir: Path, until: tuple[str, ...]) -> int:
    """What there is to do, and what it will cost."""
    from pivot_jax.report import format as text
    from pivot_jax.study import overview, run

    graph = run.open_study(spec, workdir)
    found = overview.overview(graph, graph.needed(run.targets(graph, until)))
    table = tables.table("stage", "runs", "to do", "measurements", "steps", "FLOPs", "hours")
    for row in found.rows:
        flops = text.si(row.flops) if row.flops else "–"
        cells = (
            row.runs,
            row.left,
            row.measurements,
            f"{row.steps:,}" if row.steps else "–",
            flops,
            f"{row.hours:.2f}",
        )
        table.add_row(row.stage, *map(str, cells))
    tables.console().print(table)
    for line in found.lines:
        print(line)
    return 0


def _workdir(args: argparse.Namespace, spec: str) -> Path:
    """As the user says, else ``runs/`` and the name of the study."""
    name = Path(spec.partition(":")[0])
    return Path(args.workdir or Path("runs", name.parent.name if name.stem == "study" else name.stem))
