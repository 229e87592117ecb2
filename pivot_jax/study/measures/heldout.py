"""How a run of online RL answered held-out prompts while it trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.rl.scheme.log_formats import number_of, table
from pivot_jax.study.measures.task import Task
from pivot_jax.study.store import Outcome


def heldout(task: Task) -> Outcome:
    """Accuracy on the run's ``rl.heldout`` prompts after each evaluation, by one of its rewards.

    Settings: ``reward``, its label: a response is right where it is above 0.5.

    Items [prompts]: ``last``, accuracy after training; ``fall``, accuracy at the best evaluation less that, which is 0
    or more on average and says what a run lost again.
    """
    label = str(task.get("reward"))
    files = sorted((task.folder / "eval").glob("heldout-*.jsonl"), key=number_of)
    if not files:
        raise UserError(f"measures.{task.name}: {task.folder.name} has no evaluations of rl.heldout; set eval.every")
    steps = [number_of(path) for path in files]
    right = np.stack([_right(path, label) for path in files])  # [evaluations, prompts]
    curve = right.mean(axis=1)
    best = int(curve.argmax())
    numbers = {"steps": steps, "accuracy": [round(float(one), 4) for one in curve], "best_step": steps[best]}
    items = {"last": right[-1], "fall": right[best] - right[-1]}
    return Outcome(numbers, {name: values.astype(np.float32) for name, values in items.items()})


def _right(path: Path, label: str) -> np.ndarray:
    """Share of right responses to each prompt, in the order of their ids: float64 [prompts]."""
    by_prompt: dict[str, list[float]] = {}
    for _, row in table(path):
        if label not in row["rewards"]:
            raise UserError(f"{path}: no reward '{label}' (there are: {', '.join(row['rewards'])})")
        by_prompt.setdefault(row["id"], []).append(float((row["rewards"][label] or 0.0) > 0.5))
    return np.asarray([np.mean(by_prompt[name]) for name in sorted(by_prompt)])
