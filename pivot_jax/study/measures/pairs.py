"""Implicit rewards of a run on pairs of answers."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from pivot_jax.data.loading.loader import build_loader
from pivot_jax.models.logprobs import answer_logps, score
from pivot_jax.study.measures.task import Task
from pivot_jax.study.store import Outcome
from pivot_jax.train.open import OpenModel, open_run


def pairs(task: Task) -> Outcome:
    """β-scaled log-ratios to the reference run: margins of chosen over rejected, on each set of pairs.

    Settings: ``reference`` (a run's folder), ``beta``, ``sources`` {name: a source of ``data.sources``}.

    Items: one metric ``NAME`` per source, the margins [pairs].
    """
    policy, reference = open_run(task.folder), open_run(task.get("reference"))
    beta = float(task.get("beta"))
    items, numbers = {}, {}
    for name, source in task.get("sources").items():
        rewards = beta * (_logps(policy, source) - _logps(reference, source))
        margins = (rewards[:, 0] - rewards[:, 1]).astype(np.float32)
        items[name] = margins
        numbers[name] = {"accuracy": float((margins > 0).mean()), "margin": float(margins.mean())}
    return Outcome(numbers, items)


def _logps(model: OpenModel, source: dict[str, Any]) -> np.ndarray:
    """Summed log-probs of chosen and rejected for all pairs of a source: float32 [n, 2]."""
    size = model.config.eval.batch_size
    loader = build_loader(model.config, model.training_processor("preference"), sources=[source], batch_size=size)
    compute = jax.jit(lambda params, batch: answer_logps(score(model.mllm, params, batch), batch))
    found = [(np.asarray(compute(model.params, batch)), batch.row_index) for batch in loader.ordered()]
    return np.concatenate([values[index >= 0] for values, index in found])
