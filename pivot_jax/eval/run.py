"""Running one benchmark into a predictions file: the questions without an answer there are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pivot_jax.data.example import Example
from pivot_jax.errors import UserError
from pivot_jax.eval import predictions
from pivot_jax.eval.answerer import Reply
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.score import Score, score_file
from pivot_jax.eval.scoring import parse
from pivot_jax.progress import progress


class Answers(Protocol):
    """The methods of a model that a benchmark needs; ``Answerer`` has them."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def answer(
        self, examples: Sequence[Example], max_new_tokens: int, done: Callable[[int], Any] = ...
    ) -> list[Reply]: ...

    def choose(
        self, examples: Sequence[Example], options: Sequence[Sequence[str]], normalisation: str = ...
    ) -> list[int]: ...


@dataclass(frozen=True)
class RunOptions:
    """How a benchmark is run."""

    model_id: str = ""  # identity of the answering model; a file of another model's answers is rejected
    limit: int = 0  # only the first questions; 0: all
    max_new_tokens: int = 0  # 0: the benchmark's own number
    ranked: bool = False  # also rank the options by likelihood, where there are options
    chunk: int = 64  # questions between two writes
    show: bool = True  # progress


def run_benchmark(
    name: str, path: str | Path, answerer: Answers, out: str | Path, options: RunOptions | None = None
) -> Path:
    """Asks the questions that ``out`` does not hold yet, and appends the answers as they come.

    Existing answers are used again if they were made under the same settings (the answerer's, and the number of new
    tokens); see :func:`predictions.resume`. For those without a ranking of their options, only the ranking is computed.

    Args:
      path: the benchmark's files.
      out: predictions file.

    Returns:
      ``out``.

    Raises:
      UserError: unknown benchmark, unreadable questions, or a file of another evaluation.
    """
    options = options or RunOptions()
    questions, total = _questions(name, path, options.limit)
    return _run(name, questions, total, answerer, Path(out), options)


def evaluate(
    name: str,
    path: str | Path,
    answerer: Answers,
    out: str | Path,
    options: RunOptions | None = None,
    *,
    seed: int = 0,
) -> Score:
    """:func:`run_benchmark`, and the score of the questions that were chosen.

    A file with answers to more questions than ``options.limit`` keeps them; they are not scored.

    Args:
      seed: of the resampling.
    """
    options = options or RunOptions()
    questions, total = _questions(name, path, options.limit)
    file = _run(name, questions, total, answerer, Path(out), options)
    return score_file(file, name, seed=seed, ids=set(questions))


def _run(
    name: str, questions: dict[str, Example], total: int, answerer: Answers, file: Path, options: RunOptions
) -> Path:
    """:func:`run_benchmark` for questions by id, of ``total`` in the benchmark."""
    benchmark = suite.find(name)
    settings = {"max_new_tokens": options.max_new_tokens or benchmark.max_new_tokens, **answerer.settings}
    form = benchmark.option_form if options.ranked else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    prompts = {key: _prompt(example) for key, example in questions.items()}
    answered = predictions.resume(file, prompts, options.model_id, settings, name)
    pending = [example for key, example in questions.items() if key not in answered]
    unranked = [questions[key] for key, row in answered.items() if form and key in questions and not row.get("ranked")]
    done = len(questions) - len(pending) - len(unranked)
    with progress(name, len(questions), done=done, show=options.show) as advance:
        for part in _chunks(unranked, options.chunk):
            for example, best in zip(part, _rankings(form, answerer, part), strict=True):
                answered[example.id] |= best
            predictions.write(file, answered.values())
            advance(len(part))
        for part in _chunks(pending, options.chunk):
            replies = answerer.answer(part, settings["max_new_tokens"], advance)
            rankings = _rankings(form, answerer, part)
            common = {"benchmark": name, "questions": total, "model_id": options.model_id}
            rows = [
                _row(example, reply, common) | best | {"settings": settings}
                for example, reply, best in zip(part, replies, rankings, strict=True)
            ]
            predictions.append(file, rows)
    return file


def _questions(name: str, path: str | Path, limit: int) -> tuple[dict[str, Example], int]:
    """The first ``limit`` questions (0: all) by id, and how many the benchmark has."""
    examples = suite.find(name).read(path)
    total = min(limit or len(examples), len(examples))
    questions: dict[str, Example] = {}
    for example in (examples[index] for index in range(total)):
        if example.id in questions:
            raise UserError(f"benchmark {name}: {path} has two questions '{example.id}'; give each an id of its own")
        questions[example.id] = example
    return questions, len(examples)


def _chunks(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    return (examples[start : start + size] for start in range(0, len(examples), size))


def _rankings(form: str, answerer: Answers, examples: Sequence[Example]) -> Sequence[dict[str, str]]:
    """Field ``ranked`` of each example: its most likely option as a letter or a text; no field where ``form`` is ""."""
    if not form:
        return [{} for _ in examples]
    texts = [[str(choice) for choice in example.extra["choices"]] for example in examples]
    options = [list(parse.LETTERS[: len(choices)]) for choices in texts] if form == "letter" else texts
    best = answerer.choose(examples, options)
    return [{"ranked": options[index][choice]} for index, choice in enumerate(best)]


def _prompt(example: Example) -> str:
    """The user's text that is asked, without an answer after it."""
    messages = example.messages[:-1] if example.messages[-1].role == "assistant" else example.messages
    return messages[-1].content


def _row(example: Example, reply: Reply, common: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a predictions file (see ``predictions``), without settings and ranking."""
    extra = example.extra
    row = {
        "question_id": example.id,
        "prompt": _prompt(example),
        "answer": reply.text,
        "gt_answer": extra.get("answer", ""),
        "category": extra.get("category", ""),
        "choices": list(extra.get("choices") or ()),
        "finished": reply.finished,
        **common,
    }
    return row | ({"unit": extra["unit"]} if "unit" in extra else {})
