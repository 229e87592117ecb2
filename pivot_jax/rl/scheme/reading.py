"""Arms from logs: every log is a run, and the runs of one name are the seeds of an arm."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.progress import progress
from pivot_jax.rl.scheme import logs as log_readers
from pivot_jax.rl.scheme import responses
from pivot_jax.rl.scheme.arms import Arm
from pivot_jax.rl.scheme.logs import LogSettings
from pivot_jax.rl.scheme.responses import Responses, Scoring, collect


@dataclass(frozen=True)
class Settings:
    """How logs become arms.

    Attributes:
      log: how they are read. scoring: which responses are correct.
      epoch: steps of an epoch: step 0 is before training, steps 1 to ``epoch`` are epoch 1, and so on. 0: the log's
        own steps.
    """

    log: LogSettings = log_readers.DEFAULT
    scoring: Scoring = responses.DEFAULT
    epoch: float = 0.0


DEFAULT = Settings()


def read_arms(logs: Sequence[str | Path], settings: Settings = DEFAULT, *, show: bool = False) -> list[Arm]:
    """Reads ``[ARM=]PATH`` each; the logs of one arm are its seeds, in this order. Without names all are of one arm.

    Several logs are read by as many processes as there are cores. Lengths are in tokens where every log has them.

    Raises:
      UserError: a log that is missing, malformed, or does not say what is correct; the message names it.
    """
    named = [_named(str(log), len(logs) == 1) for log in logs]
    if not named:
        raise UserError("no logs; name one or more")
    paths = [path for _, path in named]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise UserError(f"{twice[0]} is named twice; a run counts once")
    runs = _read_all(paths, settings, show)
    if len({run.unit for run in runs}) > 1:
        runs = [replace(run, unit="words") for run in runs]
    arms = list(dict.fromkeys(arm for arm, _ in named))
    return [Arm(arm, tuple(run for (name, _), run in zip(named, runs, strict=True) if name == arm)) for arm in arms]


def _named(log: str, alone: bool) -> tuple[str, Path]:
    """Arm and path; a log that is ``alone`` names its arm itself. A path that exists may have "=" in it."""
    name, equals, path = log.partition("=")
    if equals and "/" not in name and not Path(log).exists():
        return name, Path(path)
    return Path(log).resolve().name if alone else "runs", Path(log)


def _read_all(paths: Sequence[Path], settings: Settings, show: bool) -> list[Responses]:
    one = partial(read_run, settings=settings)
    processes = min(len(paths), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    with progress("reading logs", len(paths), show=show) as advance:
        found = []
        if processes < 2:
            for path in paths:
                found.append(one(path))
                advance()
            return found
        # Not forked: JAX's threads may run in this process.
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            for run in pool.map(one, paths):
                found.append(run)
                advance()
    return found


def read_run(path: Path, settings: Settings) -> Responses:
    """The responses of one log. Errors as of :func:`read_arms`."""
    try:
        run = collect(log_readers.read(path, settings.log), settings.scoring)
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    return replace(run, step=np.ceil(run.step / settings.epoch)) if settings.epoch else run
