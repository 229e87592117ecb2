"""``text``: what a language model can do with text alone, before and after a training; also by tasks of lm-eval."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from pivot_jax.cli import outputs, tables
from pivot_jax.errors import UserError

if TYPE_CHECKING:
    from pivot_jax.adapters.lm_eval_tasks import TaskResults
    from pivot_jax.eval.text import TextAbility

COMMAND = "pivot-jax text"
OF_TASKS = ("include_path", "few_shot", "limit", "chat_template")


def text(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    if args.tasks:
        _tasks(args)
        return
    if given := [name for name in OF_TASKS if getattr(args, name) not in (None, "", 0, False)]:
        raise UserError(f"--{given[0].replace('_', '-')}: only with --tasks; name some, or leave it out")
    from pivot_jax.eval.text import perplexity_ratio
    from pivot_jax.train.text_ability import record, text_ability

    out = outputs.file(args.out, "--out", command=COMMAND) if args.out else None
    found = {weights: text_ability(weights) for weights in dict.fromkeys([*args.before, args.weights])}
    for weights, one in found.items():
        _show(weights, one)
    ratios = {before: perplexity_ratio(found[before], found[args.weights]) for before in args.before}
    for before, ratio in ratios.items():
        print(f"perplexity against {before}: x {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
    if out is not None:
        outputs.record(out, COMMAND, [record(weights, one) for weights, one in found.items()])


def _tasks(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from pivot_jax.adapters.text_tasks import text_tasks

    out = outputs.file(args.out, "--out", command=COMMAND) if args.out else None
    names = [name for name in args.tasks.split(",") if name]
    options = {name: getattr(args, name) for name in OF_TASKS}
    found = {
        weights: text_tasks(weights, names, batch_size=args.batch_size, **options)
        for weights in dict.fromkeys([*args.before, args.weights])
    }
    for weights, one in found.items():
        _show_tasks(weights, one)
    if out is not None:
        outputs.record(out, COMMAND, [{"weights": weights} | asdict(one) for weights, one in found.items()])


def _show_tasks(weights: str, found: TaskResults) -> None:
    from rich.text import Text

    asked = "in the chat template" if found.options.chat_template else "without a chat template"
    print(f"{weights}: lm-eval {found.lm_eval}, {asked}")
    table = tables.table("task", "metric", "value", "standard error", "questions", "few-shot")
    for task in found.tasks:
        for metric in task.metrics:
            error = "" if math.isnan(metric.stderr) else f"{metric.stderr:.4f}"
            numbers = f"{metric.value:.4f}", error, f"{task.questions:,}", str(task.few_shot)
            table.add_row(Text(task.task), Text(metric.name), *numbers)
    tables.console().print(table)


def _show(weights: str, found: TextAbility) -> None:
    from rich.text import Text

    perplexity, correct = found.perplexity, found.correct.scaled(len(found.answers))
    tokens = sum(passage.tokens for passage in found.passages)
    print(
        f"{weights}: perplexity {perplexity.value:.2f} [{perplexity.low:.2f}, {perplexity.high:.2f}] on {tokens:,} "
        f"tokens; {correct.value:.0f} of {len(found.answers)} questions right"
    )
    table = tables.table("question", "answer", "")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "left", False
    for answer in found.answers:
        table.add_row(Text(answer.prompt), Text(" ".join(answer.text.split())), "right" if answer.right else "wrong")
    tables.console().print(table)
