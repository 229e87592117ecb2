"""Commands that ask a benchmark's questions, and score the answers."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pivot_jax.cli import inputs, outputs, tables
from pivot_jax.cli.commands import EVALUATION, Overrides
from pivot_jax.words import counted

if TYPE_CHECKING:
    from pivot_jax.eval.score import Score


def evaluate(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax import config as configs
    from pivot_jax.eval.benchmarks import controls, suite
    from pivot_jax.eval.benchmarks.toolkits import DEFAULT
    from pivot_jax.eval.run import RunOptions
    from pivot_jax.eval.score import score_path
    from pivot_jax.eval.scoring import table
    from pivot_jax.train import evaluation
    from pivot_jax.train.open import open_run
    from pivot_jax.train.source import run_config

    names = ("limit", "max_new_tokens", "ranked", "prompt", "scorer", "aggregate", "control", "category", "unit")
    options = {name: getattr(args, name) for name in names} | {"toolkit": args.toolkit or DEFAULT}
    if args.ranked:
        evaluation.check_ranked(args.benchmark)
    benchmark = suite.find(args.benchmark)
    benchmark.check_columns(args.category, args.unit)
    benchmark.variant(options["toolkit"], prompt=args.prompt, aggregate=args.aggregate)
    if args.scorer:
        table.find(args.scorer)
    if args.control:
        controls.find(args.control)
    run_config(Path(args.workdir))
    default = evaluation.predictions_of(args.workdir, args.benchmark, args.blank_images, RunOptions(**options))
    out = outputs.file(args.out or default, "--out")
    score_path(out)
    run = open_run(args.workdir, args.step)
    model = replace(run, config=configs.with_keys(run.config, overrides, EVALUATION))
    found = evaluation.evaluate(model, args.benchmark, args.data, out, blank_images=args.blank_images, **options)
    show_score(found, out)


def score(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.eval.score import Rules, score_file

    file = inputs.predictions(args.predictions)
    show_score(score_file(file, args.benchmark, Rules(args.toolkit, args.scorer, args.aggregate)), file)


def show_score(found: Score, predictions: Path) -> None:
    """Prints a score as a table, and writes it beside its predictions as ``.score.json``."""
    from rich.text import Text

    from pivot_jax.eval.benchmarks.toolkits import TOOLKITS

    found.write(predictions)
    number = counted(found.total or len(found.ids), "question")
    part = f"{len(found.ids):,} of {number}" if found.total > len(found.ids) else number
    print(f"{found.benchmark}: {part}, answers in {predictions}")
    print(f"toolkit {found.toolkit} ({TOOLKITS.get(found.toolkit, 'of a benchmark file')}), scorer {found.scorer}")
    scale = 100 if found.percent else 1
    table = tables.table("", "%" if found.percent else "points", "95 % interval")
    for name, one in found.intervals().items():
        indent = "  " if name in found.by_category else ""
        ends = tables.interval(*(end * scale / 100 for end in (one.low, one.high)))
        table.add_row(Text(indent + name), f"{scale * one.value:.2f}", ends)
    table.add_section()
    table.add_row("in the requested format", f"{100 * found.compliance:.2f}")
    table.add_row("nothing read by the scorer", f"{100 * found.unread:.2f}")
    if found.guessed:
        table.add_row("guessed by the scorer", f"{100 * found.guessed:.2f}")
    table.add_row("truncated at the token limit", f"{100 * found.truncated:.2f}")
    tables.console().print(table)
