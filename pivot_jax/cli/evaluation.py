"""Commands that ask a benchmark's questions, and score the answers."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pivot_jax.cli import inputs, outputs, tables
from pivot_jax.cli.commands import EVALUATION, Overrides
from pivot_jax.errors import UserError
from pivot_jax.words import counted

if TYPE_CHECKING:
    from pivot_jax.eval.comparison import Paired
    from pivot_jax.eval.folders import Answered
    from pivot_jax.eval.score import Rules, Score

SHOWN, WIDTH = 10, 100  # answers that toolkits disagree on, characters of one


def evaluate(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax import config as configs
    from pivot_jax.eval.benchmarks import controls, suite
    from pivot_jax.eval.benchmarks.toolkits import DEFAULT
    from pivot_jax.eval.questions import RunOptions
    from pivot_jax.eval.score import score_path
    from pivot_jax.eval.scoring import table
    from pivot_jax.train import evaluation
    from pivot_jax.train.open import open_run
    from pivot_jax.train.source import run_config

    names = (
        "limit",
        "max_new_tokens",
        "ranked",
        "prompt",
        "scorer",
        "aggregate",
        "control",
        "shard",
        "category",
        "unit",
    )
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
    if "eval.temperature" in overrides:  # also in place of the toolkit's own
        options["temperature"] = model.config.eval.temperature
    found = evaluation.evaluate(model, args.benchmark, args.data, out, blank_images=args.blank_images, **options)
    show_score(found, out)


def score(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.eval import folders
    from pivot_jax.eval.judge import Judge
    from pivot_jax.eval.score import Rules

    path, rules = Path(args.predictions), Rules(args.toolkit, args.scorer, args.aggregate)
    if bool(args.judge) != bool(args.judge_model):
        raise UserError("--judge and --judge-model: name both, the endpoint's URL and its model")
    if args.out:
        outputs.folder(args.out, "--out")
    if not path.is_dir():
        inputs.predictions(args.predictions)
    compared = _compare(path, Path(args.against), rules) if args.against else []
    judge = Judge(args.judge, args.judge_model) if args.judge else None
    answered = folders.read(path, rules, args.benchmark, data=args.data, judge=judge)
    for one in answered:
        show_score(one.score, one.file)
        if args.compare:
            _show_toolkits(one)
    if compared:
        _show_compared(compared)
    if args.out:
        from pivot_jax.report import benchmarks, folder

        print(folder.write(benchmarks.build(answered, compared), Path(args.out)))


def _compare(path: Path, other: Path, rules: Rules) -> list[Paired]:
    """Paired differences of two files, or of the files of one name in two folders."""
    from pivot_jax.eval import comparison

    if path.is_dir() != other.is_dir():
        raise UserError(f"--against {other}: compare a file with a file, or a folder with a folder")
    if not path.is_dir():
        return comparison.paired([(inputs.predictions(str(path)), inputs.predictions(str(other)))], rules)
    names = [one.name for one in sorted(path.glob("*.jsonl")) if not one.name.endswith(".others.jsonl")]
    shared = [name for name in names if (other / name).is_file()]
    if not shared:
        raise UserError(f"--against {other}: no predictions file has the name of one in {path}")
    return comparison.paired([(path / name, other / name) for name in shared], rules)


def _show_compared(compared: list[Paired]) -> None:
    table = tables.table("benchmark", "difference, points", "95 % interval", "detectable", "p", "p (Holm)", "test")
    for one in compared:
        gap = one.difference
        table.add_row(
            one.benchmark, f"{100 * gap.value:+.2f}", tables.interval(gap.low, gap.high),
            f"{100 * gap.detectable:.2f}", f"{one.p:.4f}", f"{one.adjusted:.4f}", one.test,
        )  # fmt: skip
    tables.console().print(table)


def _show_toolkits(one: Answered) -> None:
    """Prints the score under every toolkit's rules, and the first answers that they disagree on."""
    from rich.text import Text

    from pivot_jax.eval import comparison

    scores = comparison.under_all_toolkits(one.score.benchmark, one.rows)
    table = tables.table("toolkit", "scorer", "score", "nothing read, %", "guessed, %")
    for toolkit, found in scores.items():
        value = found.value.value * (100 if found.percent else 1)
        table.add_row(toolkit, found.scorer, f"{value:.2f}", f"{100 * found.unread:.2f}", f"{100 * found.guessed:.2f}")
    tables.console().print(table)
    differ = comparison.disagreements(one.rows, scores)
    print(f"{counted(len(differ), 'answer')} scored differently" + (", such as:" if differ else ""))
    for each in differ[:SHOWN]:
        verdicts = ", ".join(f"{toolkit} {value:g}" for toolkit, value in each.scores.items())
        answer = str(each.row["answer"])
        short = answer if len(answer) <= WIDTH else f"{answer[:WIDTH]}…"
        tables.console().print(
            Text(f"  {each.row['question_id']}: {short!r} for {each.row['gt_answer']!r}: {verdicts}"), soft_wrap=True
        )


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
    if found.judged:
        table.add_row("read by the judge", f"{100 * found.judged:.2f}")
    if found.guessed:
        table.add_row("guessed by the scorer", f"{100 * found.guessed:.2f}")
    table.add_row("truncated at the token limit", f"{100 * found.truncated:.2f}")
    tables.console().print(table)
