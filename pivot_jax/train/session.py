"""The parts of every training loop besides its steps: checkpoints, metrics, speed, signals, health check, evaluation.

A loop takes a batch, queues a step on the device, and hands the step's metrics over as arrays. The session reads them
only after the next step is queued, so the device never waits for the host (``train/loop.py`` is the shortest example).
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.optim import partition
from pivot_jax.parallel.hosts import is_first
from pivot_jax.progress import Advance, progress
from pivot_jax.train.checkpoints import Checkpoints
from pivot_jax.train.metric_names import original_name, renamed
from pivot_jax.train.metrics import FILE, Window
from pivot_jax.train.setup import Setup
from pivot_jax.train.signals import Interrupted, StopSignals
from pivot_jax.train.speed import Speed
from pivot_jax.train.trackers.base import Bundle, TextTable
from pivot_jax.train.trackers.table import open_trackers

log = logging.getLogger(__name__)
LISTEN_EVERY_S = 0.2  # for signals, while the data are awaited
EVAL = "eval/"  # begins the name of every metric of an evaluation


@dataclass(frozen=True)
class Hook:
    """An evaluation during training; its metrics are logged as ``eval/NAME/METRIC``.

    ``evaluate(step, params)`` gets the number of finished steps and all parameters (trained and frozen, LoRA adapters
    as leaves beside their kernels) on their devices. Where layers are not scanned, a parameter of a block is a leaf
    per layer; ``models.stacking.stacked`` joins them. The next step donates these arrays, so the function must not
    keep them. Over several processes each one calls it, and all must return the same numbers. A UserError that it
    raises ends the run with the state saved; the resumed run evaluates that step first.
    """

    name: str
    evaluate: Callable[[int, Any], Mapping[str, float]]


@dataclass(frozen=True)
class Taken:
    """A batch on the host, and the wait for it."""

    batch: Any
    position: dict[str, Any]  # state of the data iterator before the batch
    waited: float  # seconds


@dataclass(frozen=True)
class _Pending:
    """A step that is queued on the device, its metrics not read yet."""

    step: int  # finished steps before it
    taken: Taken
    metrics: dict[str, Any]
    flops: float  # of all devices, as the program is traced
    logs: bool  # whether a log line is due after it


class Session:
    """A run in progress: what changes in it besides the train state. Use it as a context manager."""

    def __init__(
        self, setup: Setup, workdir: Path, saved: Mapping[str, Any] | None, step: int, hooks: Sequence[Hook] = ()
    ):
        """Opens checkpoints, logs and data.

        Args:
          saved: the ``progress`` item of the checkpoint to resume from (see :meth:`_progress`), or None at the start.
          step: finished steps.

        Raises:
          UserError: hooks without ``eval.every``, or the reverse; data other than the checkpoint's.
        """
        train = setup.config.train
        self._setup, self._hooks = setup, hooks
        best = original_name(train.best_metric)
        self._best = best.lstrip("-")
        self._names = setup.config.rl.metric_names if setup.objective.kind == "policy" else "trl"
        self._check_hooks()
        self.step, self._total = step, setup.loader.total_steps
        self._checkpoints = Checkpoints(workdir, keep=train.keep, best_metric=best)
        self._workdir = workdir
        self._trackers = open_trackers(setup.config, workdir, step) if is_first() else None
        self._tables: list[tuple[int, TextTable]] = []  # not shown yet: of the step that is next
        self._batches = iter(setup.loader)
        self._window, self._tokens = Window(), 0
        self._last: dict[str, float] = {}  # the last log line
        self._evaluation: dict[str, float] = {}  # of this step; empty if there was none
        self._postponed = False  # the evaluation of this step is still to come
        if saved is not None:
            self._batches.set_state(saved["data"])
            self._window, self._tokens, self._last = Window(saved["window"]), saved["num_tokens"], dict(saved["last"])
            self._evaluation, self._postponed = dict(saved.get("evaluation", {})), postponed(saved)
        self._speed = Speed(setup)
        self._signals = StopSignals()
        self._pending: _Pending | None = None
        self._opened = contextlib.ExitStack()
        self._advance: Advance

    def __enter__(self) -> Session:
        self._opened.enter_context(self._signals)  # closed last, so a signal does not interrupt the last checkpoint
        self._opened.push(self._end_checkpoints)
        self._opened.push(self._end_trackers)
        bar = progress(self._setup.config.name, self._total, done=self.step, show=is_first())
        self._advance = self._opened.enter_context(bar)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._opened.__exit__(kind, error, trace)

    @property
    def finished(self) -> bool:
        return self.step >= self._total

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last log line, and of the evaluation after the last step if there was one."""
        return self._last | self._evaluation

    @property
    def saved_steps(self) -> list[int]:
        """Steps of all complete checkpoints, in order."""
        return self._checkpoints.steps()

    def position(self) -> dict[str, Any]:
        """State of the data iterator: what :meth:`take` returns next."""
        return self._batches.get_state()

    def begin(self, state: Any) -> None:
        """Evaluates before the first step if ``eval.at_start`` asks for it, or what a stopped run still owes."""
        if self._hooks and (self._postponed or (self.step == 0 and self._setup.config.eval.at_start)):
            self._evaluate(state)

    def take(self, state: Any) -> Taken:
        """The next batch of this process.

        Raises:
          UserError: too many bad rows; the state is saved.
          Interrupted: stopped by a signal while it waited; the state is saved.
        """
        position = self._batches.get_state()
        started = time.perf_counter()
        while not self._batches.wait(LISTEN_EVERY_S):
            self.stop_between_steps(state, position)
        try:
            batch = next(self._batches)
        except UserError:
            self.save_before_error(state, position)
            raise
        return Taken(batch, position, time.perf_counter() - started)

    def record(self, taken: Taken, metrics: dict[str, Any], flops: float, state: Any) -> None:
        """Records a step that is now in the device's queue, and reads the metrics of the one before it.

        Args:
          metrics: name → scalar, on the device or the host; ``loss``, ``grad_norm`` and ``healthy`` among them.
          flops: of the step on all devices. state: the train state after the step.

        Raises:
          UserError: loss or gradient of the step before was not finite; the last good state is saved.
        """
        self._read_pending(state)
        self._signals.arm()
        self.step += 1
        self._evaluation, self._postponed = {}, False
        logs = self.step % self._setup.config.train.log_every == 0 or self.finished
        self._pending = _Pending(self.step - 1, taken, metrics, flops, logs)
        self._advance(1)

    def save_or_stop(self, state: Any) -> None:
        """Evaluates, saves and stops where that is due after this step; otherwise returns without waiting for it.

        Raises:
          UserError: from a hook, or the checkpoint could not be written.
          Interrupted: stopped by a signal; the state is saved.
        """
        self._checkpoints.check()
        stops = self._signals.agreed(self.step) and not self.finished
        evaluates = self._evaluation_due()
        saves = stops or self.finished or self.step % self._setup.config.train.checkpoint_every == 0
        if not (saves or evaluates):
            return
        self._read_pending(state)
        if evaluates and stops:
            self._postponed = True  # whoever sent the signal waits for the checkpoint only
        elif evaluates:
            self._evaluate(state)
        if saves:
            self._save(state, self._batches.get_state())
        if stops:
            self._checkpoints.wait()
            raise Interrupted(self.step, self._signals.received or signal.SIGTERM)

    def stop_between_steps(self, state: Any, position: dict[str, Any]) -> None:
        """Stops a loop that is busy between two steps, if a signal has arrived; called as often as it likes.

        Several processes would have to agree, so there the run stops after the next step.

        Args:
          position: state of the data iterator to resume with.

        Raises:
          Interrupted: the state is saved.
        """
        if jax.process_count() > 1 or not self._signals.received:
            return
        self._read_pending(state)
        if self.step not in self._checkpoints.steps():
            self._save(state, position)
        self._checkpoints.wait()
        raise Interrupted(self.step, self._signals.received)

    def _read_pending(self, state: Any) -> None:
        """Reads and logs the metrics of the queued step, which waits for it; then shows the tables of the next."""
        done, self._pending = self._pending, None
        if done is not None:
            self._log(done, state)
        tables, self._tables = self._tables, []
        if self._trackers is not None:
            for step, table in tables:
                self._trackers.show(step, table)

    def _log(self, done: _Pending, state: Any) -> None:
        metrics = {name: float(value) for name, value in jax.device_get(done.metrics).items()}
        if not metrics.pop("healthy"):
            self._reject(done, metrics, state)
        metrics["learning_rate"] = float(self._setup.curve(done.step)) * self._setup.highest_rate
        self._tokens += self._speed.note(done.taken.batch, done.taken.waited, done.flops)
        self._window.add(metrics)
        if done.logs:
            self._last = self._window.take() | {"num_tokens": self._tokens} | self._speed.line()
            if self._setup.loader.steps_per_epoch:  # 0: the data have no end
                self._last["epoch"] = (done.step + 1) / self._setup.loader.steps_per_epoch
            self._write(done.step + 1, self._last)
            if not self._best.startswith(EVAL):
                self._check_best(self._last)

    def _write(self, step: int, metrics: dict[str, float]) -> None:
        if self._trackers is not None:
            self._trackers.write(step, renamed(metrics, self._names))

    def show(self, table: TextTable) -> None:
        """Hands a table to the trackers, as of the step that is next: after the metrics of the step before it."""
        self._tables.append((self.step + 1, table))

    def _end_checkpoints(self, kind: Any, error: Any, trace: Any) -> None:
        """Waits for a checkpoint that is being written; not after an error, where other processes may not join in."""
        if jax.process_count() == 1 or error is None or isinstance(error, Interrupted):
            self._checkpoints.close()

    def _end_trackers(self, kind: Any, error: Any, trace: Any) -> None:
        if self._trackers is None:
            return
        finished = kind is None and self.finished
        names = ("config.json", "trained_parameters.json", FILE, "skipped.jsonl")
        kept = tuple(path for name in names if (path := self._workdir / name).exists())
        self._trackers.close(finished, Bundle("run", kept, self._workdir / "checkpoints") if finished else None)

    def _check_best(self, logged: Mapping[str, float]) -> None:
        if self._best and self._best not in logged:
            raise UserError(f"train.best_metric: '{self._best}' is not logged; there are: {', '.join(sorted(logged))}")

    def _reject(self, done: _Pending, metrics: dict[str, float], state: Any) -> None:
        """Saves the last good state, with the bad batch still to come, and names the rows of the batch."""
        self.step = done.step
        if self.step not in self._checkpoints.steps():
            self._save(state.replace(healthy=~state.healthy), done.taken.position)
        self._checkpoints.wait()
        rows = [self._setup.loader.data.row_id(int(row)) for row in np.ravel(done.taken.batch.row_index) if row >= 0]
        shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        raise UserError(
            f"step {self.step + 1}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']} (rows {shown}); "
            f"no parameter was changed, step {self.step} is saved; lower the learning rate or remove the row"
        )

    def _check_hooks(self) -> None:
        every, names = self._setup.config.eval.every, ", ".join(hook.name for hook in self._hooks)
        if names and not every:
            raise UserError(
                f"eval.every: 0, so the evaluations that the run was given ({names}) never run; set it, or give it none"
            )
        if every and not names:
            raise UserError(
                f"eval.every: {every}, but there is nothing to evaluate; set eval.benchmarks, or pass hooks"
            )

    def _evaluation_due(self) -> bool:
        return bool(self._hooks) and (self.finished or self.step % self._setup.config.eval.every == 0)

    def _evaluate(self, state: Any) -> None:
        """Calls the hooks and logs their metrics; the time does not count in ``perf/*``."""
        params = partition.merge(state.trained, state.frozen)
        found: dict[str, float] = {}
        try:
            with self._speed.paused():
                for hook in self._hooks:
                    values = hook.evaluate(self.step, params)
                    found |= {f"{EVAL}{hook.name}/{name}": float(value) for name, value in values.items()}
            if self._best.startswith(EVAL):
                self._check_best(found)
        except UserError:
            self._postponed = True
            self.save_before_error(state, self._batches.get_state())
            raise
        self._evaluation, self._postponed = found, False
        if found:
            self._write(self.step, found)
            if is_first():
                log.info("step %d: %s", self.step, ", ".join(f"{name} {value:.4g}" for name, value in found.items()))

    def save_before_error(self, state: Any, position: dict[str, Any]) -> None:
        """Saves ``state`` before an error between two steps ends the run; arguments as of :meth:`stop_between_steps`.

        Not over several processes, where the others would not join in.
        """
        self._read_pending(state)
        if jax.process_count() == 1 and self.step and self.step not in self._checkpoints.steps():
            self._save(state, position)
            self._checkpoints.wait()

    def _save(self, state: Any, position: dict[str, Any]) -> None:
        self._checkpoints.save(self.step, state, self._progress(position), self.metrics)

    def _progress(self, position: dict[str, Any]) -> dict[str, Any]:
        """State of a resumed run besides the train state, as JSON."""
        running = {"data": position, "window": self._window.state(), "num_tokens": self._tokens, "last": self._last}
        return running | {"evaluation": self._evaluation, "postponed": self._postponed}


def postponed(saved: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was saved before the evaluation that was due at its step."""
    return bool(saved.get("postponed"))  # absent in checkpoints from before there were evaluations


def last_metrics(saved: Mapping[str, Any]) -> dict[str, float]:
    """What :attr:`Session.metrics` was when a checkpoint was saved."""
    return dict(saved["last"]) | dict(saved.get("evaluation", {}))
