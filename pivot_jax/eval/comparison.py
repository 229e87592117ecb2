"""One predictions file under several toolkits' rules, and two models' answers to the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.score import Rules, Score, checked, score_rows
from pivot_jax.eval.statistics import Interval


@dataclass(frozen=True)
class Disagreement:
    """An answer that the rules score differently.

    Attributes:
      scores: toolkit → score 0..1.
    """

    row: Mapping[str, Any]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Paired:
    """Two models on one benchmark, on the questions that both answered.

    Attributes:
      difference: first − second, mean over independent units.
      only_first, only_second: units that one of them alone has right.
      p: two-sided, by ``test``; ``adjusted`` is Holm's over all benchmarks that are compared.
      unpaired: questions that only one of them answered.
    """

    benchmark: str
    first: Score
    second: Score
    difference: Interval
    only_first: int
    only_second: int
    test: str
    p: float
    adjusted: float
    unpaired: int


def under_all_toolkits(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Score]:
    """The score of the rows of ``score.checked`` by scorer and aggregate of every toolkit that has their benchmark.

    The answers are those to the prompt that was asked: another toolkit's own number would need its prompt, too.
    """
    return {toolkit: score_rows(name, rows, Rules(toolkit)) for toolkit in suite.find(name).variants}


def disagreements(rows: Sequence[dict[str, Any]], scores: Mapping[str, Score]) -> list[Disagreement]:
    """The answers that not all of these rules score alike, in the order of the rows."""
    by_id = {toolkit: dict(zip(one.ids, one.scores.tolist(), strict=True)) for toolkit, one in scores.items()}
    found = []
    for row in rows:
        question_id = str(row["question_id"])
        own = {toolkit: values[question_id] for toolkit, values in by_id.items() if question_id in values}
        if len(set(own.values())) > 1:
            found.append(Disagreement(row, own))
    return found


def paired(pairs: Sequence[tuple[str | Path, str | Path]], rules: Rules | None = None) -> list[Paired]:
    """Compares two predictions files per benchmark, with Holm's correction over the benchmarks.

    The test is McNemar's where every unit is right or wrong, else a sign-flip test of the mean difference.

    Raises:
      UserError: files of different benchmarks or toolkits, or without a question in common.
    """
    found = [_pair(Path(first), Path(second), rules or Rules()) for first, second in pairs]
    adjusted = statistics.holm({index: one.p for index, one in enumerate(found)})
    return [replace(one, adjusted=adjusted[index]) for index, one in enumerate(found)]


def _pair(first: Path, second: Path, rules: Rules) -> Paired:
    name, rows = checked(first)
    other, others = checked(second)
    if name != other:
        raise UserError(f"{first} answers {name}, and {second} answers {other}; compare files of one benchmark")
    by_id = {str(row["question_id"]): row for row in others}
    common = [row for row in rows if str(row["question_id"]) in by_id]
    if not common:
        raise UserError(f"{first} and {second} have no question in common, so there is nothing to compare")
    for row in common:
        if row.get("prompt") != by_id[str(row["question_id"])].get("prompt"):
            raise UserError(
                f"{first} and {second} were asked question '{row['question_id']}' with different prompts; "
                "answer both with the same toolkit"
            )
    ours = score_rows(name, common, rules)
    theirs = score_rows(name, [by_id[str(row["question_id"])] for row in common], rules)
    one, two = ours.per_unit(), theirs.per_unit()
    binary = bool(np.isin(np.concatenate([one, two]), (0.0, 1.0)).all())
    p = statistics.mcnemar(one > 0, two > 0) if binary else statistics.permutation(one, two)
    return Paired(
        name,
        ours,
        theirs,
        difference=statistics.difference(one, two, ours.clusters),
        only_first=int((one > two).sum()),
        only_second=int((two > one).sum()),
        test="McNemar" if binary else "sign flips",
        p=p,
        adjusted=p,
        unpaired=len(rows) + len(others) - 2 * len(common),
    )
