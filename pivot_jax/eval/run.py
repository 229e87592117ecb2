"""Benchmarks: what is asked, how it is scored; running one into a predictions file, and scoring such a file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.errors import UserError
from pivot_jax.eval import predictions, questions
from pivot_jax.eval.answerer import Reply
from pivot_jax.eval.scoring import aggregate, math, parse, scorers
from pivot_jax.eval.scoring.scorers import Gold, Scorer
from pivot_jax.eval.statistics import Interval
from pivot_jax.progress import progress


@dataclass(frozen=True)
class Benchmark:
    """One benchmark."""

    read: Callable[[str | Path], questions.Questions]  # from the path of its files
    scorer: Scorer
    expected: str  # form of a good answer, for the compliance rate (see ``parse.complies``)
    max_new_tokens: int
    ranked: str = ""  # "letter" | "text": options can also be ranked by likelihood; "" they cannot
    together: bool = False  # the score counts units (pairs) of which every answer is right
    strict: Scorer | None = None  # a second scorer, reported beside the first


BENCHMARKS: dict[str, Benchmark] = {
    "mmvp": Benchmark(
        questions.mmvp, scorers.letter_or_text, "letter", 16, "letter", together=True, strict=scorers.strict_letter
    ),
    "scienceqa": Benchmark(
        questions.scienceqa, scorers.scienceqa, "letter", 16, "letter", strict=scorers.strict_letter
    ),
    "mathvision": Benchmark(questions.mathvision, math.mathvision, "short", 512),
    "scenes": Benchmark(questions.scenes, scorers.exact, "short", 32, "text"),
}


class Answers(Protocol):
    """What a benchmark needs of a model; ``Answerer`` is one."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def answer(
        self, examples: Sequence[Example], max_new_tokens: int, done: Callable[[int], Any] = ...
    ) -> list[Reply]: ...

    def choose(
        self, examples: Sequence[Example], options: Sequence[Sequence[str]], normalisation: str = ...
    ) -> list[int]: ...


@dataclass(frozen=True)
class Score:
    """Result of one benchmark. Shares are 0..1."""

    benchmark: str
    metric: str  # "accuracy" | "pair_accuracy"
    value: Interval
    compliance: float  # share of answers in the asked form, right or wrong
    cut: float  # share of answers that the token limit cut
    by_category: dict[str, Interval] = field(default_factory=dict)
    also: dict[str, Interval] = field(default_factory=dict)  # "question_accuracy", "strict", "ranked"
    ids: tuple[str, ...] = ()
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [n] in order of ``ids``
    units: tuple[Any, ...] | None = None  # unit of each question, where they count together

    def per_unit(self) -> np.ndarray:
        """Scores of the independent units [u] (pairs: 1 where both are right), for paired comparisons of models."""
        if self.units is None:
            return self.scores
        right: dict[Any, float] = {}
        for unit, score in zip(self.units, self.scores, strict=True):
            right[unit] = min(right.get(unit, 1.0), float(score >= 1.0))
        return np.asarray(list(right.values()))


def run_benchmark(
    name: str,
    path: str | Path,
    answerer: Answers,
    out: str | Path,
    *,
    model_id: str = "",
    limit: int = 0,
    max_new_tokens: int = 0,
    ranked: bool = False,
    chunk: int = 64,
    show: bool = True,
) -> Path:
    """Asks the questions that ``out`` does not hold yet, and appends the answers as they come.

    Answers that are there are used again if they were made under the same settings (the answerer's, and the number of
    new tokens); see :func:`predictions.resume`. Of those that lack the rank of their options, only that is computed.

    Args:
      path: the benchmark's files. out: predictions file.
      model_id: what the answering model is; a file of another one is refused.
      limit: only the first questions; 0 all. max_new_tokens: 0 the benchmark's own.
      ranked: also rank the options by likelihood. chunk: questions between two writes.

    Raises:
      UserError: unknown benchmark, unreadable questions, or a file of another evaluation.
    """
    return _ask(
        name, _questions(name, path, limit), answerer, Path(out),
        model_id=model_id, max_new_tokens=max_new_tokens, ranked=ranked, chunk=chunk, show=show,
    )  # fmt: skip


def evaluate(
    name: str, path: str | Path, answerer: Answers, out: str | Path, *, seed: int = 0, limit: int = 0, **options: Any
) -> Score:
    """:func:`run_benchmark` (its keywords in ``options``), and :func:`score` of the questions that were chosen.

    A file that holds answers to more questions than ``limit`` keeps them; they are not scored.
    """
    chosen = _questions(name, path, limit)
    return score(_ask(name, chosen, answerer, Path(out), **options), name, seed=seed, ids=set(chosen))


def _ask(
    name: str,
    chosen: dict[str, Example],
    answerer: Answers,
    file: Path,
    *,
    model_id: str = "",
    max_new_tokens: int = 0,
    ranked: bool = False,
    chunk: int = 64,
    show: bool = True,
) -> Path:
    """:func:`run_benchmark` for questions that are already read, by id."""
    benchmark = find(name)
    settings = {"max_new_tokens": max_new_tokens or benchmark.max_new_tokens, **answerer.settings}
    file.parent.mkdir(parents=True, exist_ok=True)
    there = predictions.resume(file, {key: _prompt(example) for key, example in chosen.items()}, model_id, settings)
    pending = [example for key, example in chosen.items() if key not in there]
    ranked = ranked and bool(benchmark.ranked)
    unranked = [chosen[key] for key, row in there.items() if ranked and key in chosen and not row.get("ranked")]
    with progress(name, len(chosen), done=len(chosen) - len(pending) - len(unranked), show=show) as advance:
        for part in _chunks(unranked, chunk):
            for example, best in zip(part, _ranked(benchmark, answerer, part), strict=True):
                there[example.id]["ranked"] = best
            predictions.write(file, there.values())
            advance(len(part))
        for part in _chunks(pending, chunk):
            replies = answerer.answer(part, settings["max_new_tokens"], advance)
            options = _ranked(benchmark, answerer, part) if ranked else [None] * len(part)
            rows = [_row(name, model_id, *one) for one in zip(part, replies, options, strict=True)]
            predictions.append(file, [{**row, "settings": settings} for row in rows])
    return file


def _questions(name: str, path: str | Path, limit: int) -> dict[str, Example]:
    """The first ``limit`` questions (0: all) by id."""
    examples = find(name).read(path)
    total = min(limit or len(examples), len(examples))
    chosen = {example.id: example for example in (examples[index] for index in range(total))}
    if len(chosen) < total:
        raise UserError(f"benchmark {name}: question ids in {path} are not unique")
    return chosen


def _chunks(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    return (examples[start : start + size] for start in range(0, len(examples), size))


def score(path: str | Path, name: str = "", *, seed: int = 0, ids: Collection[str] | None = None) -> Score:
    """Scores a predictions file; without ``name`` by the benchmark that its rows name.

    Args:
      ids: only these questions; None all that the file holds.

    Raises:
      UserError: no answers, or rows of several benchmarks.
    """
    rows = [row for row in predictions.read(Path(path)) if ids is None or str(row["question_id"]) in ids]
    names = {name} if name else {str(row.get("benchmark", "")) for row in rows}
    if not rows or len(names) != 1:
        found = ", ".join(sorted(names)) or "no answers"
        raise UserError(f"{path}: cannot tell the benchmark (it holds {found}); name it")
    return score_rows(names.pop(), rows, seed=seed)


def score_rows(name: str, rows: Sequence[dict[str, Any]], *, seed: int = 0) -> Score:
    """Score of the rows of a predictions file (see :func:`score`)."""
    benchmark = find(name)
    golds = [scorers.gold_from(row) for row in rows]
    given = [str(row["answer"] or "") for row in rows]
    values = np.asarray([benchmark.scorer(*pair) for pair in zip(given, golds, strict=True)])
    units = tuple(row.get("unit", row["question_id"]) for row in rows) if benchmark.together else None
    categories = [gold.category for gold in golds]
    return Score(
        benchmark=name,
        metric="pair_accuracy" if benchmark.together else "accuracy",
        value=_value(values, units, seed),
        compliance=float(np.mean([_complies(benchmark, *pair) for pair in zip(given, golds, strict=True)])),
        cut=float(np.mean([not row.get("finished", True) for row in rows])),
        by_category=aggregate.by_category(list(values), categories) if len(set(categories)) > 1 else {},
        also=_also(benchmark, rows, given, golds, values, units, seed),
        ids=tuple(str(row["question_id"]) for row in rows),
        scores=values,
        units=units,
    )


def find(name: str) -> Benchmark:
    """Raises UserError for a name that is not in :data:`BENCHMARKS`."""
    if name not in BENCHMARKS:
        raise UserError(f"benchmark '{name}' is unknown; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def _value(values: np.ndarray, units: tuple[Any, ...] | None, seed: int) -> Interval:
    if units is None:
        return aggregate.accuracy(list(values), seed=seed)
    return aggregate.all_right(list(values), units, seed=seed)


def _also(benchmark, rows, given, golds, values, units, seed) -> dict[str, Interval]:
    out = {}
    if units is not None:
        out["question_accuracy"] = aggregate.accuracy(list(values), seed=seed)
    if benchmark.strict is not None:
        strict = np.asarray([benchmark.strict(*pair) for pair in zip(given, golds, strict=True)])
        out["strict"] = _value(strict, units, seed)
    if all(row.get("ranked") for row in rows):
        right = [_matches(str(row["ranked"]), gold) for row, gold in zip(rows, golds, strict=True)]
        out["ranked"] = _value(np.asarray(right, float), units, seed)
    return out


def _complies(benchmark: Benchmark, answer: str, gold: Gold) -> bool:
    return parse.complies(answer, benchmark.expected, gold.choices)


def _matches(option: str, gold: Gold) -> bool:
    return any(parse.plain(option) == parse.plain(accepted) for accepted in gold.answers)


def _ranked(benchmark: Benchmark, answerer: Answers, part: Sequence[Example]) -> Sequence[str | None]:
    """The most likely option of each example, as its letter or its text."""
    texts = [[str(choice) for choice in example.extra["choices"]] for example in part]
    options = [list(parse.LETTERS[: len(one)]) for one in texts] if benchmark.ranked == "letter" else texts
    best = answerer.choose(part, options)
    return [options[index][choice] for index, choice in enumerate(best)]


def _prompt(example: Example) -> str:
    messages = example.messages[:-1] if example.messages[-1].role == "assistant" else example.messages
    return messages[-1].content


def _row(name: str, model_id: str, example: Example, reply: Reply, ranked: str | None) -> dict[str, Any]:
    extra = example.extra
    row = {
        "question_id": example.id,
        "prompt": _prompt(example),
        "answer": reply.text,
        "gt_answer": extra.get("answer", ""),
        "category": extra.get("category", ""),
        "choices": list(extra.get("choices") or ()),
        "finished": reply.finished,
        "benchmark": name,
        "model_id": model_id,
    }
    if "unit" in extra:
        row["unit"] = extra["unit"]
    if ranked is not None:
        row["ranked"] = ranked
    return row
