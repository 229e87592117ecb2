"""The work of one seed as a list of tasks, each done once: training, extraction, evaluation, probes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.study.settings import ARMS, POST_TRAINED, RUN_OF_ARM, STAGES, Study

# Seconds of each task on one core of an AMD EPYC. They weight the progress bar and the time that is left.
COSTS = {
    "stage0": 40, "stage1a": 16, "stage1b": 170, "sft": 30, "dpo": 52, "grpo": 140, "stage3": 70, "projector": 9,
    "answers": 3, "pairs": 10, "extract": 1, "probe": 13, "maps": 31,
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """``work()`` returns the task's result, which is stored in its marker."""

    name: str
    title: str
    cost: float
    work: Callable[[], dict[str, Any]]
    run: Path | None = None  # workdir of a training task; its metrics.jsonl shows the progress


def build(study: Study, seed: int) -> list[Task]:
    """All tasks of a seed in order."""
    from pivot_jax.study import maps, measure, training

    folder = study.folder(seed)

    def train(stage: str, cost: str) -> Task:
        work = partial(training.train, study, stage, seed)
        return Task(stage, f"train {stage}", COSTS[cost], work, folder / stage)

    def answers(run: str, blank: bool = False) -> Task:
        name = f"answers_{run}{'_blank' if blank else ''}"
        return Task(name, name.replace("_", " "), COSTS["answers"], partial(measure.answers, study, seed, run, blank))

    tasks = [train("stage0", "stage0"), train("stage1a", "stage1a"), train("stage1b", "stage1b")]
    tasks += [answers("stage1b"), answers("stage1b", blank=True)]
    tasks += [train(arm, arm) for arm in POST_TRAINED]
    tasks += [answers(arm) for arm in POST_TRAINED]
    tasks += [
        Task(f"pairs_{arm}", f"rewards of {arm}", COSTS["pairs"], partial(measure.pairs, study, seed, arm))
        for arm in POST_TRAINED
    ]
    for arm in ARMS:
        run, pack = folder / RUN_OF_ARM[arm], folder / f"pack_{arm}"
        tasks.append(Task(f"extract_{arm}", f"extract {arm}", COSTS["extract"], partial(training.extract, run, pack)))
        tasks.append(Task(f"probe_{arm}", f"probe {arm}", COSTS["probe"], partial(measure.probes, study, seed, arm)))
    tasks.append(Task("maps", "gradient maps", COSTS["maps"], partial(maps.gradient_maps, study, seed)))
    for arm in ARMS:
        tasks += [train(f"stage3_{arm}_projector", "projector"), train(f"stage3_{arm}", "stage3")]
        tasks.append(answers(f"stage3_{arm}"))
    assert {task.name for task in tasks} >= set(STAGES)
    return tasks


def marker(study: Study, seed: int, name: str) -> Path:
    return study.folder(seed) / "done" / f"{name}.json"


def result(study: Study, seed: int, name: str) -> dict[str, Any]:
    """The result of a finished task."""
    return json.loads(marker(study, seed, name).read_text())


def perform(study: Study, seed: int) -> None:
    """Does the tasks that are not done yet."""
    for task in build(study, seed):
        done = marker(study, seed, task.name)
        if done.exists():
            continue
        started = time.perf_counter()
        kept = task.work()
        kept.setdefault("seconds", time.perf_counter() - started)
        files.write_text(done, json.dumps(kept, indent=1))
