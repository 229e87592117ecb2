"""``scheme``: the evaluation scheme of online RL on logs of responses."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pivot_jax
from pivot_jax import files
from pivot_jax.cli import outputs
from pivot_jax.errors import UserError

if TYPE_CHECKING:
    from pivot_jax.rl.scheme.reading import Settings


def scheme(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from pivot_jax.report import folder
    from pivot_jax.report import scheme as report
    from pivot_jax.report.content import Table
    from pivot_jax.report.tables import plain
    from pivot_jax.rl.scheme.reading import read_arms

    if args.out:
        files.check_folder(outputs.folder(args.out, "--out"), overwrite=True)
    arms = read_arms(args.logs, replace(settings(args), epoch=args.steps_per_epoch), show=True)
    logs = ", ".join(
        f"{name}{equals}{Path(path or name).name}" if equals else Path(name).name
        for name, equals, path in (one.partition("=") for one in args.logs)
    )
    judged = f"{args.judge}, above {args.above:g}"
    found = report.build(arms, {"Logs": logs, "Judge": judged, "PIVOT-JAX": pivot_jax.__version__}, args.ranks)
    for block in (block for section in found.sections for block in section.blocks):
        if isinstance(block, str):
            print(block)
        elif isinstance(block, Table) and not block.closed:
            print(f"\n{plain(block)}")
    judging = sum(run.judging_s for arm in arms for run in arm.runs)
    print(f"\njudging took {judging:.1f} s")
    if args.out:
        print(f"report: {folder.write(found, Path(args.out))}")


def settings(args: argparse.Namespace) -> Settings:
    """How the options say that logs are read and judged."""
    from pivot_jax.rl.scheme.logs import LogSettings
    from pivot_jax.rl.scheme.reading import Settings
    from pivot_jax.rl.scheme.responses import Scoring

    columns = dict(pair.split("=", 1) for one in args.columns for pair in one.split(",") if _is_pair(pair))
    return Settings(LogSettings(args.format, columns, args.split, args.setting), Scoring(args.judge, args.above))


def _is_pair(text: str) -> bool:
    if "=" not in text:
        raise UserError(f"--columns {text}: write FIELD=COLUMN, such as text=completion")
    return True
