"""The score of a predictions file: a benchmark's numbers with their intervals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.eval import predictions
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.base import Benchmark
from pivot_jax.eval.scoring import aggregate, parse, scorers
from pivot_jax.eval.scoring.scorers import Gold, Scorer
from pivot_jax.eval.statistics import Interval

Units = tuple[Any, ...]


@dataclass(frozen=True)
class Score:
    """Result of one benchmark. Shares are 0..1."""

    benchmark: str
    metric: str  # "accuracy" | "pair_accuracy"
    value: Interval
    compliance: float  # share of answers in the requested format, right or wrong
    truncated: float  # share of answers that end at the token limit
    total: int = 0  # questions of the benchmark, where it is known; ``ids`` may be a part of them
    by_category: dict[str, Interval] = field(default_factory=dict)
    secondary: dict[str, Interval] = field(default_factory=dict)  # "question_accuracy", "strict", "ranked"
    ids: tuple[str, ...] = field(default=(), repr=False)
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)  # [n] in order of ``ids``
    units: Units | None = field(default=None, repr=False)  # unit of each question, where questions count together
    clusters: Units | None = field(default=None, repr=False)  # unit of each question, where units are drawn whole

    def per_unit(self) -> np.ndarray:
        """Scores of the independent units [u] (pairs: 1 where both are right), for paired comparisons of models."""
        return self.scores if self.units is None else aggregate.all_correct(list(self.scores), self.units)

    def intervals(self) -> dict[str, Interval]:
        """All intervals by name: the metric, the secondary ones, the categories."""
        return {self.metric: self.value} | self.secondary | self.by_category

    def write(self, predictions_file: Path) -> Path:
        """Writes the numbers beside the predictions as ``NAME.score.json``; returns the path.

        Raises:
          UserError: the file could not be written.
        """
        record: dict[str, Any] = {name: dataclasses.asdict(one) for name, one in self.intervals().items()}
        record |= {"benchmark": self.benchmark, "compliance": self.compliance, "truncated": self.truncated}
        record |= {"questions": len(self.ids), "of": self.total or None}
        path = score_path(predictions_file)
        files.write_text(path, json.dumps(record, indent=1))
        return path


def score_path(predictions_file: Path) -> Path:
    """Where the score of a predictions file is written. Raises UserError where another file is there."""
    path = predictions_file.with_suffix(".score.json")
    if path.exists():
        try:
            ours = {"benchmark", "compliance"} <= set(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            ours = False
        if not ours:
            raise UserError(f"{path} is not a score, so it was left as it is; the score goes there: move it away")
    return path


def score_file(path: str | Path, name: str = "", *, seed: int = 0, ids: Collection[str] | None = None) -> Score:
    """Scores a predictions file.

    Args:
      name: the benchmark; "" takes the one that the rows name.
      seed: of the resampling.
      ids: only these questions; None: all in the file.

    Raises:
      UserError: no answers, rows of several benchmarks, or of another one than ``name``; a question that is answered
        twice; an answer or a correct answer that is null; or no units where the score is one of units.
    """
    rows = [row for row in predictions.read(Path(path)) if ids is None or str(row["question_id"]) in ids]
    names = {str(row["benchmark"]) for row in rows if row.get("benchmark")} or {name}
    if name and names != {name}:
        raise UserError(
            f"{path}: its answers are to {', '.join(sorted(names))}, not to {name}; leave the benchmark out"
        )
    if not rows or len(names) != 1:
        found = ", ".join(sorted(names)) or "no answers"
        raise UserError(f"{path}: cannot tell the benchmark (it holds {found}); name it")
    name = names.pop()
    benchmark = suite.find(name)
    _check(rows, f"{path}, question", needs_units=benchmark.by_unit or benchmark.clustered)
    return score_rows(name, rows, seed=seed)


def _check(rows: Sequence[dict[str, Any]], where: str, needs_units: bool) -> None:
    """Raises UserError for rows whose score would be of something else than the answers to the questions."""
    seen: set[str] = set()
    for row in rows:
        question_id = str(row["question_id"])
        if question_id in seen:
            raise UserError(f"{where} '{question_id}': answered twice; keep one of the two lines")
        seen.add(question_id)
        if row["answer"] is None:
            raise UserError(
                f"{where} '{question_id}': 'answer' is null; ask it again, or write \"\" for an empty answer"
            )
        if row["gt_answer"] in (None, []):
            raise UserError(f"{where} '{question_id}': 'gt_answer' is {row['gt_answer']!r}; write the correct answer")
        if needs_units and row.get("unit") is None:
            raise UserError(
                f"{where} '{question_id}': field 'unit' is missing; this benchmark has questions that belong together "
                "(pairs, or one image), and equal values of 'unit' say which"
            )


def score_rows(name: str, rows: Sequence[dict[str, Any]], *, seed: int = 0) -> Score:
    """Score of the rows of a predictions file (see :func:`score_file`)."""
    benchmark = suite.find(name)
    golds = [scorers.gold_of(row) for row in rows]
    answers = [str(row["answer"]) for row in rows]
    scores = _scores(benchmark.scorer, answers, golds)
    units = tuple(row["unit"] for row in rows) if benchmark.by_unit else None
    clusters = tuple(row["unit"] for row in rows) if benchmark.clustered else None
    categories = [gold.category for gold in golds]
    compliant = [
        parse.format_compliance(answer, benchmark.answer_format, gold.choices)
        for answer, gold in zip(answers, golds, strict=True)
    ]

    def interval(values: np.ndarray) -> Interval:
        if units is None:
            return aggregate.accuracy(list(values), clusters, seed=seed)
        return aggregate.unit_accuracy(list(values), units, seed=seed)

    secondary = {"question_accuracy": aggregate.accuracy(list(scores), seed=seed)} if benchmark.by_unit else {}
    others = _secondary_scores(benchmark, rows, answers, golds)
    return Score(
        benchmark=name,
        metric="pair_accuracy" if benchmark.by_unit else "accuracy",
        value=interval(scores),
        compliance=float(np.mean(compliant)),
        truncated=float(np.mean([not row.get("finished", True) for row in rows])),
        total=max([n for row in rows if isinstance(n := row.get("questions"), int)], default=benchmark.questions),
        by_category=aggregate.by_category(list(scores), categories, clusters) if len(set(categories)) > 1 else {},
        secondary=secondary | {kind: interval(values) for kind, values in others.items()},
        ids=tuple(str(row["question_id"]) for row in rows),
        scores=scores,
        units=units,
        clusters=clusters,
    )


def _scores(scorer: Scorer, answers: Sequence[str], golds: Sequence[Gold]) -> np.ndarray:
    return np.asarray([scorer(answer, gold) for answer, gold in zip(answers, golds, strict=True)], float)


def _secondary_scores(
    benchmark: Benchmark, rows: Sequence[dict[str, Any]], answers: Sequence[str], golds: Sequence[Gold]
) -> dict[str, np.ndarray]:
    """Further scores of each question [n]: by the strict scorer, and of the most likely option."""
    found = {}
    if benchmark.strict_scorer is not None:
        found["strict"] = _scores(benchmark.strict_scorer, answers, golds)
    if all(row.get("ranked") for row in rows):
        found["ranked"] = _scores(scorers.exact, [str(row["ranked"]) for row in rows], golds)
    return found
