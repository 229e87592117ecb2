"""Tasks of lm-eval on a model of this project, in one process: MMLU, HellaSwag, GSM8K, and any other of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

from pivot_jax.adapters.lm_eval import LmEvalModel
from pivot_jax.errors import UserError, suggest

LISTED = 12  # names of unknown tasks' neighbours in a message


@dataclass(frozen=True)
class TaskOptions:
    """How tasks are run.

    Attributes:
      include_path: folder of task files of your own, which come before lm-eval's of the same name.
      few_shot: examples before each question; None: the task's own number.
      limit: only the first questions of each task; 0: all.
      chat_template: contexts are turns in the tokenizer's chat template (examples too), not plain text.
    """

    include_path: str = ""
    few_shot: int | None = None
    limit: int = 0
    chat_template: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Metric:
    """A figure as lm-eval reports it; ``stderr`` is NaN where it gives none."""

    name: str  # "acc", "exact_match,strict-match", …
    value: float
    stderr: float


@dataclass(frozen=True)
class TaskResult:
    """One task, or a group of tasks."""

    task: str
    metrics: tuple[Metric, ...]
    questions: int
    few_shot: int
    version: str


@dataclass(frozen=True)
class TaskResults:
    """What a result depends on is part of it."""

    tasks: tuple[TaskResult, ...]
    options: TaskOptions
    lm_eval: str = field(default_factory=lambda: version("lm_eval"))


def run_tasks(model: LmEvalModel, tasks: Sequence[str], options: TaskOptions | None = None) -> TaskResults:
    """Runs tasks by name.

    Raises:
      UserError: an unknown task, a missing folder of tasks, data that cannot be read, or a tokenizer without a chat
        template where one is asked for.
    """
    options = options or TaskOptions()
    if options.chat_template and model.tokenizer.chat_template is None:
        raise UserError("lm-eval: the tokenizer has no chat template; leave --chat-template out")
    manager = _manager(tasks, options.include_path)
    try:
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=list(tasks),
            num_fewshot=options.few_shot,
            limit=options.limit or None,
            apply_chat_template=options.chat_template,
            task_manager=manager,
            log_samples=False,
            random_seed=options.seed,
            numpy_random_seed=options.seed,
            fewshot_random_seed=options.seed,
            torch_random_seed=None,
        )
    except (OSError, ConnectionError) as error:  # datasets' errors of missing files, folders and networks
        raise UserError(f"lm-eval: the data of a task cannot be read ({str(error).splitlines()[0]})") from None
    return TaskResults(tuple(_result(name, found) for name in found["results"]), options)


def _manager(tasks: Sequence[str], include_path: str) -> TaskManager:
    """Reads the files of tasks. Of lm-eval's own there are 14,000, which are left out where yours suffice."""
    if include_path:
        if not Path(include_path).is_dir():
            raise UserError(f"lm-eval: no folder of tasks at '{include_path}'; name the one that holds their .yaml")
        own = TaskManager(include_path=include_path, include_defaults=False)
        if set(tasks) <= set(own.all_subtasks):  # a group may consist of lm-eval's tasks
            return own
    manager = TaskManager(include_path=include_path or None)
    for name in tasks:
        if name not in manager.all_tasks:
            raise UserError(
                f"lm-eval: there is no task '{name}'{suggest(name, manager.all_tasks)}; `lm-eval ls tasks` lists all, "
                "and --include-path names a folder of your own"
            )
    return manager


def _result(name: str, found: dict[str, Any]) -> TaskResult:
    values = found["results"][name]
    metrics = []
    for key, value in values.items():
        metric, _, kind = key.partition(",")
        if metric.endswith("_stderr") or not isinstance(value, int | float) or not kind:
            continue
        stderr = values.get(f"{metric}_stderr,{kind}")
        shown = metric if kind == "none" else key
        metrics.append(Metric(shown, float(value), float(stderr) if isinstance(stderr, int | float) else float("nan")))
    of_group = found.get("group_subtasks", {}).get(name) or [name]
    counts = [found["n-samples"][one]["effective"] for one in _leaves(name, found)] if of_group else []
    return TaskResult(
        name, tuple(metrics), sum(counts), int(found["n-shot"].get(name) or 0), str(found["versions"].get(name, ""))
    )


def _leaves(name: str, found: dict[str, Any]) -> list[str]:
    """The tasks with questions of a group, or the task itself."""
    below = found.get("group_subtasks", {}).get(name) or []
    return [leaf for one in below for leaf in _leaves(one, found)] if below else [name]
