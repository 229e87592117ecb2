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
from pivot_jax.eval import answer_files, predictions
from pivot_jax.eval.benchmarks import controls, suite
from pivot_jax.eval.benchmarks.base import Variant
from pivot_jax.eval.benchmarks.toolkits import DEFAULT
from pivot_jax.eval.judge import Judge, read_unread
from pivot_jax.eval.scoring import aggregate, parse, scorers, table
from pivot_jax.eval.scoring.aggregate import Scored, Summary
from pivot_jax.eval.scoring.scorers import Verdict
from pivot_jax.eval.statistics import Interval

Units = tuple[Any, ...]


@dataclass(frozen=True)
class Rules:
    """By which rules answers are scored.

    Attributes:
      toolkit: "" takes the one whose prompt the rows name.
      scorer: name of another scorer than the toolkit's.
      aggregate: toolkit whose aggregate is taken instead.
    """

    toolkit: str = ""
    scorer: str = ""
    aggregate: str = ""


@dataclass(frozen=True)
class Score:
    """Result of one benchmark. Shares are 0..1."""

    benchmark: str
    metric: str  # "accuracy" | "pair_accuracy" | …
    value: Interval
    compliance: float  # share of answers in the requested format, right or wrong
    truncated: float  # share of answers that end at the token limit
    toolkit: str = DEFAULT
    scorer: str = ""
    percent: bool = True  # False: ``value``, ``by_category`` and ``secondary`` are points
    unread: float = 0.0  # share of answers in which the scorer found nothing
    judged: float = 0.0  # share of answers that a judge read, because the scorer found nothing in them
    guessed: float = 0.0  # share of answers that the scorer's rule guessed; they are in ``value``
    total: int = 0  # questions of the benchmark, where it is known; ``ids`` may be a part of them
    by_category: dict[str, Interval] = field(default_factory=dict)
    secondary: dict[str, Interval] = field(default_factory=dict)  # "question_accuracy", "ranked", …
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
        names = ("benchmark", "toolkit", "scorer", "percent", "compliance", "truncated", "unread", "judged", "guessed")
        record |= {name: getattr(self, name) for name in names}
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


def score_file(
    path: str | Path,
    name: str = "",
    rules: Rules | None = None,
    *,
    data: str | Path = "",
    judge: Judge | None = None,
    seed: int = 0,
    ids: Collection[str] | None = None,
) -> Score:
    """Scores a predictions file.

    Args:
      path: the project's own file, or one that another toolkit wrote (see ``answer_files``).
      name: the benchmark; "" takes the one that the rows name.
      data: the benchmark's files, for the correct answers of a file that has none (LLaVA's).
      judge: reads answers in which the scorer finds nothing (see :mod:`judge`); None: they count as wrong.
      seed: of the resampling.
      ids: only these questions; None: all in the file.

    Raises:
      UserError: no answers, rows of several benchmarks, or of another one than ``name``; a question that is answered
        twice; an answer or a correct answer that is null; no units where the score is one of units; or a toolkit or
        scorer that is not there.
    """
    name, rows = checked(path, name, rules, data=data, judge=judge, ids=ids)
    return score_rows(name, rows, rules, seed=seed)


def checked(
    path: str | Path,
    name: str = "",
    rules: Rules | None = None,
    *,
    data: str | Path = "",
    judge: Judge | None = None,
    ids: Collection[str] | None = None,
) -> tuple[str, list[dict[str, Any]]]:
    """The benchmark of a predictions file, and its rows, which can be scored. Arguments and errors of `score_file`."""
    rows = [row for row in _read(Path(path), name, data) if ids is None or str(row["question_id"]) in ids]
    names = {str(row["benchmark"]) for row in rows if row.get("benchmark")} or {name}
    if name and names != {name}:
        raise UserError(
            f"{path}: its answers are to {', '.join(sorted(names))}, not to {name}; leave the benchmark out"
        )
    if not rows or len(names) != 1:
        found = ", ".join(sorted(names)) or "no answers"
        raise UserError(f"{path}: cannot tell the benchmark (it holds {found}); name it")
    name = names.pop()
    _, variant = _chosen(name, rows, rules or Rules())
    _check(rows, f"{path}, question", needs_units=variant.aggregate.units != "")
    return name, rows if judge is None else read_unread(Path(path), rows, variant.scorer, judge)


def _read(path: Path, name: str, data: str | Path) -> list[dict[str, Any]]:
    toolkit = answer_files.toolkit_of(path)
    if toolkit in ("", "ours") or (toolkit == "cambrian" and path.suffix == ".jsonl" and not data):
        return predictions.read(path)
    _, rows = answer_files.read(path)
    if data:
        rows = answer_files.with_golds(rows, toolkit, suite.find(name).read(data), path)
    elif any("gt_answer" not in row for row in rows):
        raise UserError(f"{path}: a file of {toolkit} without correct answers; name the benchmark's files with --data")
    return [{"toolkit": toolkit} | row for row in rows]


def _chosen(name: str, rows: Sequence[dict[str, Any]], rules: Rules) -> tuple[str, Variant]:
    toolkit = rules.toolkit or next((str(row["toolkit"]) for row in rows if row.get("toolkit")), DEFAULT)
    variant = suite.find(name).variant(toolkit, scorer=rules.scorer, aggregate=rules.aggregate)
    control = next((controls.find(str(row["control"])) for row in rows if row.get("control")), None)
    if control is not None and control.aggregate is not None:
        variant = dataclasses.replace(variant, aggregate=control.aggregate)
    return toolkit, variant


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


def score_rows(name: str, rows: Sequence[dict[str, Any]], rules: Rules | None = None, *, seed: int = 0) -> Score:
    """Score of the rows of a predictions file (see :func:`score_file`)."""
    benchmark = suite.find(name)
    toolkit, variant = _chosen(name, rows, rules or Rules())
    scored = verdicts(rows, variant.scorer)
    found = variant.aggregate.summarise(scored, seed)
    having = [row for row in rows if row.get("choices")]
    if having and all(row.get("ranked") for row in having) and variant.scorer != "ranked":
        found.others["ranked"] = variant.aggregate.summarise(verdicts(having, "ranked"), seed).value
    categories = [one.gold.category for one in scored]
    units = tuple(aggregate.units_of(scored))
    clusters = units if variant.aggregate.units == "cluster" else None
    scores = aggregate.scores_of(scored)
    return Score(
        benchmark=name,
        metric=found.metric,
        value=found.value,
        compliance=float(
            np.mean(
                [
                    parse.format_compliance(str(row["answer"]), benchmark.answer_format, one.gold.choices)
                    for row, one in zip(rows, scored, strict=True)
                ]
            )
        ),
        truncated=float(np.mean([not row.get("finished", True) for row in rows])),
        toolkit=toolkit,
        scorer=variant.scorer,
        percent=found.percent,
        unread=float(np.mean([one.verdict.read == "" for one in scored])),
        judged=float(np.mean(["unread_answer" in row for row in rows])),
        guessed=float(np.mean([one.verdict.guessed for one in scored])),
        total=max([n for row in rows if isinstance(n := row.get("questions"), int)], default=benchmark.questions),
        by_category=_by_category(found, scores, categories, clusters),
        secondary=found.others,
        ids=tuple(one.id for one in scored),
        scores=np.asarray(scores, float),
        units=units if variant.aggregate.units == "group" else None,
        clusters=clusters,
    )


def verdicts(rows: Sequence[dict[str, Any]], scorer: str) -> list[Scored]:
    """The verdict of a scorer on each row of a predictions file."""
    judge = table.find(scorer)
    scored = []
    for row in rows:
        gold = scorers.gold_of(row)
        verdict: Verdict = judge(str(row["answer"]), gold)
        scored.append(Scored(gold.id, verdict, gold, row.get("unit")))
    return scored


def _by_category(
    found: Summary, scores: list[float], categories: list[str], clusters: Units | None
) -> dict[str, Interval]:
    """Accuracy per category, where there are several and the aggregate gives no numbers of its own for them."""
    several = len(set(categories)) > 1 and not set(categories) & set(found.others)
    return aggregate.by_category(scores, categories, clusters) if several and found.percent else {}
