"""Which questions of a benchmark are asked, and how."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pivot_jax.data.example import Example
from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks import controls, suite
from pivot_jax.eval.benchmarks.base import Variant, Worded
from pivot_jax.eval.benchmarks.toolkits import DEFAULT


@dataclass(frozen=True)
class RunOptions:
    """How a benchmark is run.

    Attributes:
      model_id: identity of the answering model; a file of another model's answers is rejected.
      limit: only the first questions, with all that count together with one of them; 0: all.
      max_new_tokens: 0: the toolkit's own number.
      temperature: None: the toolkit's own, or else the answerer's.
      ranked: also rank the options by likelihood, where there are options: "mean", "sum" or "prior" (see
        ``ranking.rank``); "": do not.
      chunk: questions between two writes.
      show: progress.
      toolkit: asks and scores; ``prompt`` is one that asks in its place.
      scorer, aggregate: as in ``score.Rules``.
      control: a change to all questions, of ``controls.CONTROLS``; "": none.
      category, unit: columns of the categories, and of what questions share, of your own questions (``qa``).
      shard: (k, n): the k-th of n parts of the questions (from 1), for several processes; see :mod:`shards`.
    """

    model_id: str = ""
    limit: int = 0
    max_new_tokens: int = 0
    temperature: float | None = None
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
    shard: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Chosen:
    """The chosen questions.

    Attributes:
      positions: id → position, of the questions of this shard.
      prompts: id → prompt, of the questions of all shards.
      golds: id → what an answer is scored with, fields of its row.
      images: most images of a question.
      total: questions that the benchmark has.
      path: of its files.
    """

    name: str
    variant: Variant
    examples: Worded
    positions: dict[str, int]
    prompts: dict[str, str]
    golds: dict[str, dict[str, Any]]
    images: int
    total: int
    path: str

    def of(self, ids: Sequence[str]) -> list[Example]:
        """The examples of these questions."""
        return [self.examples[self.positions[one]] for one in ids]


def choose(name: str, path: str | Path, options: RunOptions) -> Chosen:
    """The first ``limit`` questions (0: all), with all questions of a group of which one is among them.

    Raises:
      UserError: unknown benchmark, toolkit or control, or two questions with one id.
    """
    benchmark = suite.find(name)
    variant = benchmark.variant(
        options.toolkit, prompt=options.prompt, scorer=options.scorer, aggregate=options.aggregate
    )
    items = benchmark.items(path, options.category, options.unit)
    total = len(items)
    if options.control:
        control = controls.find(options.control)
        items, variant = control.items(items), replace(variant, aggregate=control.aggregate or variant.aggregate)
    examples = Worded(items, variant)
    grouped = variant.aggregate.units == "group" or variant.aggregate.whole
    positions: dict[str, int] = {}
    prompts: dict[str, str] = {}
    golds: dict[str, dict[str, Any]] = {}
    images = 0
    units: dict[str, int] = {}  # unit → its number
    numbers: dict[str, int] = {}  # question → the number of its unit
    for index in range(len(examples)):
        within = not options.limit or len(positions) < options.limit
        if not within and not grouped:
            break
        example = examples[index]
        unit = repr(example.extra.get("unit")) if grouped else example.id
        if not within and unit not in units:
            continue
        if example.id in positions:
            raise UserError(f"benchmark {name}: {path} has two questions '{example.id}'; give each an id of its own")
        positions[example.id], prompts[example.id], golds[example.id] = index, prompt_of(example), gold_of(example)
        images = max(images, len(example.images))
        numbers[example.id] = units.setdefault(unit, len(units))
    part, parts = options.shard
    own = {one: at for one, at in positions.items() if numbers[one] % parts == part - 1}
    return Chosen(name, variant, examples, own, prompts, golds, images, total, str(path))


def prompt_of(example: Example) -> str:
    """The user's text that is asked."""
    return example.messages[-1].content


def gold_of(example: Example) -> dict[str, Any]:
    """Fields of a predictions file that say how the question's answer is scored."""
    extra = example.extra
    gold = {
        "gt_answer": extra.get("answer", ""),
        "category": extra.get("category", ""),
        "choices": list(extra.get("choices") or ()),
    }
    return json.loads(json.dumps(gold | {name: extra[name] for name in ("unit", "fields") if name in extra}))
