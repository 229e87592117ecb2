"""A run's responses to prompts, and training data made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax import config as configs
from pivot_jax.rl import samples, self_made
from pivot_jax.rl.scheme.reading import DEFAULT, read_run
from pivot_jax.study.measures.task import Task
from pivot_jax.study.store import Outcome
from pivot_jax.train.open import open_run

FOLDER = "responses"  # in the run's folder


def responses(task: Task) -> Outcome:
    """Responses as ``pivot-jax sample`` writes them, and data of them as ``pivot-jax prepare responses`` does.

    Both are in ``responses/NAME`` of the run's folder; the data are ``data/right.jsonl`` and ``data/pairs.jsonl``.

    Settings: ``set``, keys of the run's config that say what is sampled (:data:`samples.KEYS`); ``per_question``, rows
    of a question at most, 0 for responses without data.

    Items: ``accuracy`` [prompts], the share of a prompt's responses that are right.
    """
    config = configs.with_keys(task.config, task.get("set"), samples.KEYS)
    folder = task.folder / FOLDER / task.name
    samples.sample(replace(open_run(task.folder), config=config), folder)
    found = read_run(folder, DEFAULT)
    by_question = [found.correct[found.question == one].mean() for one in np.unique(found.question)]
    numbers: dict[str, Any] = {"accuracy": float(found.correct.mean())}
    if most := int(task.get("per_question", 1)):
        numbers |= _data(folder, most, task.seed)
    return Outcome(numbers, {"accuracy": np.asarray(by_question, np.float32)})


def _data(folder: Path, most: int, seed: int) -> dict[str, Any]:
    """Numbers of what ``folder/data`` has; written unless it is there."""
    made = folder / "data"
    if not made.exists():
        self_made.write(folder, made, most=most, seed=seed)
    about = json.loads((made / self_made.ABOUT).read_text())
    return {name: about[name] for name in ("questions", "answered_right", "answered_both_ways", "rows")}
