"""Running one benchmark into a predictions file: the questions without an answer there are asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pivot_jax.data.example import Example
from pivot_jax.errors import UserError
from pivot_jax.eval import predictions
from pivot_jax.eval.answerer import Reply
from pivot_jax.eval.benchmarks import controls, suite
from pivot_jax.eval.benchmarks.base import Variant, Worded
from pivot_jax.eval.benchmarks.toolkits import DEFAULT
from pivot_jax.eval.score import Rules, Score, score_file
from pivot_jax.eval.scoring import parse
from pivot_jax.progress import progress


class Answers(Protocol):
    """The methods of a model that a benchmark needs; ``Answerer`` has them."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def answer(
        self,
        examples: Sequence[Example],
        max_new_tokens: int,
        done: Callable[[int], Any] = ...,
        stop: Sequence[str] = ...,
    ) -> list[Reply]: ...

    def choose(
        self, examples: Sequence[Example], options: Sequence[Sequence[str]], normalisation: str = ...
    ) -> list[int]: ...


@dataclass(frozen=True)
class RunOptions:
    """How a benchmark is run.

    Attributes:
      model_id: identity of the answering model; a file of another model's answers is rejected.
      limit: only the first questions, with all that count together with one of them; 0: all.
      max_new_tokens: 0: the toolkit's own number.
      ranked: also rank the options by likelihood, where there are options: "mean", "sum" or "prior" (see
        ``ranking.rank``); "": do not.
      chunk: questions between two writes.
      show: progress.
      toolkit: asks and scores; ``prompt`` is one that asks in its place.
      scorer, aggregate: as in ``score.Rules``.
      control: a change to all questions, of ``controls.CONTROLS``; "": none.
      category, unit: columns of the categories, and of what questions share, of your own questions (``qa``).
    """

    model_id: str = ""
    limit: int = 0
    max_new_tokens: int = 0
    ranked: str = ""
    chunk: int = 64
    show: bool = True
    toolkit: str = DEFAULT
    prompt: str = ""
    scorer: str = ""
    aggregate: str = ""
    control: str = ""
    category: str = ""
    unit: str = ""


@dataclass(frozen=True)
class _Asked:
    """The chosen questions: their examples by position; position, prompt and what is scored with by id."""

    name: str
    variant: Variant
    examples: Worded
    positions: dict[str, int]
    prompts: dict[str, str]
    golds: dict[str, dict[str, Any]]
    total: int  # questions that the benchmark has

    def of(self, ids: Sequence[str]) -> list[Example]:
        return [self.examples[self.positions[one]] for one in ids]


def run_benchmark(
    name: str, path: str | Path, answerer: Answers, out: str | Path, options: RunOptions | None = None
) -> Path:
    """Asks the questions that ``out`` does not hold yet, and appends the answers as they come.

    Existing answers are used again if they were made under the same settings (the answerer's, the toolkit, and the
    number of new tokens); see :func:`predictions.resume`. For those without a ranking of their options, only the
    ranking is computed.

    Args:
      path: the benchmark's files.
      out: predictions file.

    Returns:
      ``out``.

    Raises:
      UserError: unknown benchmark or toolkit, unreadable questions, or a file of another evaluation.
    """
    options = options or RunOptions()
    return _run(_asked(name, path, options), answerer, Path(out), options)


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
    asked = _asked(name, path, options)
    file = _run(asked, answerer, Path(out), options)
    rules = Rules(options.toolkit, options.scorer, options.aggregate)
    return score_file(file, name, rules, seed=seed, ids=set(asked.positions))


def _run(asked: _Asked, answerer: Answers, file: Path, options: RunOptions) -> Path:
    settings = _settings(asked, answerer, options)
    form = suite.find(asked.name).option_form if options.ranked else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    answered = predictions.resume(file, asked.prompts, options.model_id, settings, asked.name)
    _correct(file, answered, asked.golds)
    pending = [one for one in asked.positions if one not in answered]
    unranked = [one for one, row in answered.items() if form and one in asked.positions and not row.get("ranked")]
    done = len(asked.positions) - len(pending) - len(unranked)
    with progress(asked.name, len(asked.positions), done=done, show=options.show) as advance:
        for part in _chunks(unranked, options.chunk):
            for one, best in zip(part, _rankings(form, answerer, asked.of(part), options.ranked), strict=True):
                answered[one] |= best
            predictions.write(file, answered.values())
            advance(len(part))
        for part in _chunks(pending, options.chunk):
            examples = asked.of(part)
            replies = answerer.answer(examples, settings["max_new_tokens"], advance, asked.variant.stop)
            rankings = _rankings(form, answerer, examples, options.ranked)
            common = {"benchmark": asked.name, "questions": asked.total, "model_id": options.model_id}
            common |= {"toolkit": options.toolkit} | ({"control": options.control} if options.control else {})
            rows = [
                _row(example, reply, common) | best | {"settings": settings}
                for example, reply, best in zip(examples, replies, rankings, strict=True)
            ]
            predictions.append(file, rows)
    return file


def _correct(file: Path, answered: dict[str, dict[str, Any]], golds: Mapping[str, dict[str, Any]]) -> None:
    """Brings the rows' correct answers, categories and units up to date: their change is no reason to ask again."""
    stale = {
        one: golds[one]
        for one, row in answered.items()
        if one in golds and any(row.get(key) != value for key, value in golds[one].items())
    }
    if stale:
        for one, gold in stale.items():
            answered[one] |= gold
        predictions.write(file, answered.values())


def _settings(asked: _Asked, answerer: Answers, options: RunOptions) -> dict[str, Any]:
    """Everything that an answer depends on besides the model and the question."""
    found = {"max_new_tokens": options.max_new_tokens or asked.variant.max_new_tokens, **answerer.settings}
    wording = options.prompt or options.toolkit
    found |= {"toolkit": wording} if wording != DEFAULT else {}
    return found | ({"control": options.control} if options.control else {})


def _asked(name: str, path: str | Path, options: RunOptions) -> _Asked:
    """The first ``limit`` questions (0: all), with all questions of a group of which one is among them."""
    benchmark = suite.find(name)
    variant = benchmark.variant(
        options.toolkit, prompt=options.prompt, scorer=options.scorer, aggregate=options.aggregate
    )
    items = benchmark.items(path, options.category, options.unit)
    total = len(items)
    if options.control:
        control = controls.find(options.control)
        items, variant = control.items(items), replace(variant, aggregate=control.aggregate or variant.aggregate)
    examples, grouped = Worded(items, variant), variant.aggregate.units == "group"
    positions: dict[str, int] = {}
    prompts: dict[str, str] = {}
    golds: dict[str, dict[str, Any]] = {}
    units: set[str] = set()
    for index in range(len(examples)):
        within = not options.limit or len(positions) < options.limit
        if not within and not grouped:
            break
        example = examples[index]
        unit = repr(example.extra.get("unit"))
        if not within and unit not in units:
            continue
        if example.id in positions:
            raise UserError(f"benchmark {name}: {path} has two questions '{example.id}'; give each an id of its own")
        positions[example.id], prompts[example.id], golds[example.id] = index, _prompt(example), _gold(example)
        units.add(unit)
    return _Asked(name, variant, examples, positions, prompts, golds, total)


def _chunks(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _rankings(
    form: str, answerer: Answers, examples: Sequence[Example], normalisation: str
) -> Sequence[dict[str, str]]:
    """Field ``ranked`` of each example: its most likely option as a letter or a text; no field where ``form`` is ""."""
    if not form:
        return [{} for _ in examples]
    texts = [[str(choice) for choice in example.extra["choices"]] for example in examples]
    options = [list(parse.LETTERS[: len(choices)]) for choices in texts] if form == "letter" else texts
    found: list[dict[str, str]] = [{} for _ in examples]
    own = [index for index, choices in enumerate(options) if choices]  # your own questions may have none
    best = answerer.choose([examples[one] for one in own], [options[one] for one in own], normalisation) if own else []
    for index, choice in zip(own, best, strict=True):
        found[index] = {"ranked": options[index][choice], "ranking": normalisation}
    return found


def _prompt(example: Example) -> str:
    """The user's text that is asked."""
    return example.messages[-1].content


def _row(example: Example, reply: Reply, common: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a predictions file (see ``predictions``), without settings and ranking."""
    row = {"question_id": example.id, "prompt": _prompt(example), "answer": reply.text, **_gold(example)}
    return row | {"finished": reply.finished, **common}


def _gold(example: Example) -> dict[str, Any]:
    """Fields of a predictions file that say how the question's answer is scored."""
    extra = example.extra
    gold = {
        "gt_answer": extra.get("answer", ""),
        "category": extra.get("category", ""),
        "choices": list(extra.get("choices") or ()),
    }
    return json.loads(json.dumps(gold | {name: extra[name] for name in ("unit", "fields") if name in extra}))
