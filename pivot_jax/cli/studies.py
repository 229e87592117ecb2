"""``demo`` and ``study``: a declared matrix of arms, factors and seeds on a workflow engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from pivot_jax.cli import outputs, tables
from pivot_jax.cli.commands import Overrides, stoppable

DEMO, REAL = "demo/study.py", "real/study.py"


def demo(args: argparse.Namespace, overrides: Overrides) -> int:
    """The packaged study in miniature, the one of a folder of one's own, or one seed of the one with real parts."""
    from pivot_jax.study import run

    packaged = REAL if args.real else DEMO
    own = Path(args.configs, "study.py") if args.configs else Path("configs", packaged)
    spec = str(own) if args.configs or own.is_file() else packaged
    workdir = Path(args.workdir or ("runs/demo_real" if args.real else "runs/demo"))
    outputs.folder(workdir, "--workdir")
    return stoppable(lambda: run.run(spec, workdir, run.Choice(seeds=(0,) if args.real else ())))


def study(args: argparse.Namespace, overrides: Overrides) -> int:
    from pivot_jax.study import run, workflow

    name = Path(args.study.partition(":")[0])
    workdir = Path(args.workdir or Path("runs", name.parent.name if name.stem == "study" else name.stem))
    if args.dry_run:
        return _show(args, workdir)
    outputs.folder(workdir, "--workdir")
    if args.report:
        print(f"report: {run.report(args.study, workdir, args.seeds)}")
        return 0
    options = workflow.Options(args.cores, args.profile, args.jobs or workflow.JOBS)
    choice = run.Choice(tuple(args.seeds), tuple(args.until), tuple(args.forcerun))
    return stoppable(lambda: run.run(args.study, workdir, choice, options))


def _show(args: argparse.Namespace, workdir: Path) -> int:
    """What there is to do, and what it will cost."""
    from pivot_jax.report import format as text
    from pivot_jax.study import overview, run

    graph = run.open_study(args.study, workdir, args.seeds)
    found = overview.overview(graph, graph.needed(run.targets(graph, args.until)))
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
