"""Answers to a benchmark's questions, and the language prior that they are compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pivot_jax.eval import predictions
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.toolkits import DEFAULT
from pivot_jax.eval.questions import RunOptions
from pivot_jax.eval.run import evaluate
from pivot_jax.study.measures.majority import majority_answers
from pivot_jax.study.measures.task import Task
from pivot_jax.study.store import Outcome
from pivot_jax.train.open import open_run


def answers(task: Task) -> Outcome:
    """The run's answers, in ``answers/NAME.jsonl``; ``blank`` replaces the images by grey ones.

    Settings: ``benchmark``, ``path``; ``toolkit``, ``blank``, ``ranked`` (also rank the options), ``limit``,
    ``max_new_tokens``.

    Items [questions]: ``accuracy``, with ``ranked`` also ``ranked``; ``category``, an index into ``categories``; and
    ``unit``, where several questions are about one image. Of a benchmark that scores pairs, items are the pairs.
    """
    benchmark, path = str(task.get("benchmark")), Path(task.get("path"))
    ranked = "mean" if task.get("ranked", False) else ""
    model = open_run(task.folder)
    size = model.config.eval.batch_size
    out = task.folder / "answers" / f"{task.name}.jsonl"
    options = RunOptions(
        model_id=f"{task.folder.resolve().name}, {task.name}",  # a choice among trials is a link to one
        limit=int(task.get("limit", 0)),
        max_new_tokens=int(task.get("max_new_tokens", 0)),
        ranked=ranked,
        toolkit=str(task.get("toolkit", DEFAULT)),
        chunk=size,
        show=False,
    )
    answerer = model.answerer(size, blank_images=bool(task.get("blank", False)))
    found = evaluate(benchmark, path, answerer, out, options)
    rows = predictions.read(out)
    categories = list(dict.fromkeys(str(row.get("category", "")) for row in rows))
    items: dict[str, np.ndarray] = {"accuracy": np.asarray(found.per_unit(), np.float32)}
    if ranked:
        right = np.asarray([row["ranked"] == row["gt_answer"] for row in rows], float)
        items["ranked"] = replace(found, scores=right).per_unit() > 0
    if found.units is None:
        items["category"] = np.asarray([categories.index(str(row.get("category", ""))) for row in rows], np.uint8)
    if found.clusters is not None:
        items["unit"] = np.unique([str(unit) for unit in found.clusters], return_inverse=True)[1].astype(np.uint32)
    numbers = {name: float(items[name].mean()) for name in ("accuracy", "ranked") if name in items}
    return Outcome(numbers | {"categories": categories, "benchmark": benchmark}, items)


def majority(task: Task) -> Outcome:
    """The language prior: the most frequent answer to the same question in the training data of scenes.

    Settings: ``path``. Items: ``accuracy`` [questions].
    """
    path = Path(task.get("path"))
    known = majority_answers(path)
    questions = suite.examples("scenes", path)
    right = np.asarray([known(one.messages[0].content) == one.extra["answer"] for one in questions], np.float32)
    return Outcome({"accuracy": float(right.mean())}, {"accuracy": right})
