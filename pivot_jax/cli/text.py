"""``text``: what a language model can do with text alone, before and after a training."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pivot_jax.cli import outputs, tables

if TYPE_CHECKING:
    from pivot_jax.eval.text import TextAbility

COMMAND = "pivot-jax text"


def text(args: argparse.Namespace, overrides: dict[str, str]) -> None:
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
