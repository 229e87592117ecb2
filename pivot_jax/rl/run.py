"""A training run of any kind: online RL with its own loop, everything else with that of ``train.loop``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pivot_jax.objectives.table import batch_kind
from pivot_jax.rl import loop
from pivot_jax.rl.rewards.function import read_rewards
from pivot_jax.train import run as training
from pivot_jax.train.run import Result
from pivot_jax.train.session import Hook


def run(config: Any, workdir: Path | str, hooks: Sequence[Hook] = ()) -> Result:
    """Trains ``config`` in ``workdir``; resumes from its newest checkpoint, returns at once if it is finished.

    Writes what :func:`pivot_jax.train.run.run` writes; online RL (``objective.name`` is ``policy``) also
    ``completions/`` and ``rollouts/``.

    Args:
      config: of :func:`pivot_jax.config.load`.
      hooks: evaluations every ``eval.every`` steps and after the last one, besides those of ``eval.benchmarks``.

    Raises:
      UserError: bad config, data or checkpoint; a workdir of another config, or one that a run is training in.
      Interrupted: stopped by a signal, state saved; the same call resumes.
    """
    if not isinstance(config, str) and batch_kind(config) == "policy":
        read_rewards(config.rl.rewards, config.rl.reward_timeout_s)  # a typo is found before anything is read or made
        return training.run(config, workdir, hooks, loop.train)
    return training.run(config, workdir, hooks)
