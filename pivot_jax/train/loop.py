"""The training loop: steps, log lines, checkpoints, and every way to end before the last step."""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from pivot_jax.errors import UserError
from pivot_jax.models.flops import traced_flops
from pivot_jax.parallel.hosts import is_first
from pivot_jax.parallel.mesh import place_batch
from pivot_jax.progress import progress
from pivot_jax.train.checkpoint import Checkpoints
from pivot_jax.train.metrics import MetricsWriter, Window
from pivot_jax.train.setup import Setup
from pivot_jax.train.speed import Speed

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C) and saved a checkpoint; the same command continues it."""

    def __init__(self, step: int, signum: int):
        super().__init__(f"stopped at step {step}; checkpoint saved, run the same command again to continue")
        self.step, self.signum = step, signum


class StopSignals:
    """While entered, SIGTERM and SIGINT ask the loop to save and stop instead of killing the process."""

    def __enter__(self) -> StopSignals:
        self.received = 0
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the checkpoint
        self.received = number

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, step: int) -> bool:
        """Whether to stop after ``step``. Over several processes all answer the same, asked every tenth step."""
        if jax.process_count() == 1:
            return bool(self.received)
        if step % 10:
            return False
        return bool(np.any(multihost_utils.process_allgather(np.asarray(bool(self.received)))))


def train(setup: Setup, state: Any, place: dict[str, Any] | None, reference: Any, workdir: Path) -> tuple[Any, dict]:
    """Trains from ``state`` to the last step.

    Args:
      place: the ``progress`` item of the checkpoint that ``state`` came from, or None at the start.
      reference: reference parameters for a preference step that computes log-probs itself, or None.

    Returns:
      (state, metrics of the last log line).

    Raises:
      UserError: loss or gradient not finite, disk full, too many bad rows.
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    run = _Run(setup, workdir, place, int(state.step))
    try:
        with StopSignals() as stop, jax.set_mesh(setup.mesh):
            return run.steps(state, reference, stop)
    finally:
        run.close()


class _Pending(NamedTuple):
    """A step that was handed to the device and not read yet."""

    step: int  # steps done before it
    batch: Any
    metrics: dict[str, Any]
    place: dict[str, Any]  # of the data iterator, before the batch
    waited: float  # seconds for the batch
    flops: float  # of all devices, as the program is traced
    logs: bool  # whether a log line is due behind it


class _Run:
    """What changes beside the train state: the place in the data, running means, counters."""

    def __init__(self, setup: Setup, workdir: Path, place: dict[str, Any] | None, step: int):
        train = setup.config.train
        self.setup, self.step = setup, step
        self.total = setup.loader.total_steps
        self.checkpoints = Checkpoints(workdir, keep=train.keep, best_metric=train.best_metric)
        self.writer = MetricsWriter(workdir, step) if is_first() else None
        self.batches = iter(setup.loader)
        self.window, self.tokens = Window(), 0
        if place is not None:
            self.batches.set_state(place["data"])
            self.window, self.tokens = Window(place["window"]), place["num_tokens"]
        self.last: dict[str, float] = dict(place["last"]) if place else {}
        self.speed = Speed(setup)
        self.programs, self.compiled = 0, set[Any]()
        self.flops: dict[Any, float] = {}  # of a step, by the shapes of its batch

    stopping = False

    def place(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"data": data, "window": self.window.state(), "num_tokens": self.tokens, "last": self.last}

    def steps(self, state: Any, reference: Any, stop: StopSignals) -> tuple[Any, dict[str, float]]:
        compute = self.setup.compiled_step()
        pending: _Pending | None = None
        with progress(self.setup.config.name, self.total, done=self.step, show=is_first()) as advance:
            while self.step < self.total:
                place = self.batches.get_state()
                started = time.perf_counter()
                try:
                    batch = next(self.batches)
                except UserError:  # too many bad rows: what was computed is kept
                    self._keep(pending, place, state)
                    raise
                waited = time.perf_counter() - started
                placed = place_batch(batch, self.setup.mesh)
                flops = self._flops(compute, state, placed, reference)
                state, metrics = compute(state, placed, reference)
                self._note_program(compute, batch)
                # The step before is read only now, so that the device always has one step in its queue.
                if pending is not None:
                    self._account(pending, state)
                self.step += 1
                pending = _Pending(self.step - 1, batch, metrics, place, waited, flops, self._logs())
                advance(1)
                if not self._saves(stop):
                    continue
                self._account(pending, state)
                pending = None
                self._end_of_step(state, stop)
        self.checkpoints.wait()
        return state, self.last

    def _note_program(self, compute: Any, batch: Any) -> None:
        """Logs each compilation: one per batch shape, and none after it."""
        programs = compute._cache_size()
        if programs > self.programs:
            shapes = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
            again = shapes in self.compiled
            if is_first():
                log.log(logging.WARNING if again else logging.INFO, "step %d: compiled %sfor %d rows of %d tokens",
                        self.step + 1, "again " if again else "", *batch.tokens.shape)  # fmt: skip
            self.compiled.add(shapes)
            self.programs = programs

    def _flops(self, compute: Any, state: Any, batch: Any, reference: Any) -> float:
        """What a step on this batch does. The trace is the one that the call compiles from, made once per shape."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
        if shapes not in self.flops:
            self.flops[shapes] = traced_flops(compute.trace(state, batch, reference).jaxpr)
        return self.flops[shapes]

    def _logs(self) -> bool:
        return self.step % self.setup.config.train.log_every == 0 or self.step == self.total

    def _saves(self, stop: StopSignals) -> bool:
        """Whether the run saves or stops here, for which the step must have finished."""
        self.stopping = stop.agreed(self.step) and self.step < self.total
        ends = self.step == self.total or self.stopping
        return self.step % self.setup.config.train.checkpoint_every == 0 or ends

    def _log(self, step: int) -> None:
        epoch = step / max(1, self.setup.loader.steps_per_epoch)
        self.last = self.window.take() | {"epoch": epoch, "num_tokens": self.tokens} | self.speed.line()
        if self.writer:
            self.writer.write(step, self.last)
        self._check_best()

    def _end_of_step(self, state: Any, stop: StopSignals) -> None:
        self._save(state, self.batches.get_state())
        if self.stopping:
            self.checkpoints.wait()
            raise Interrupted(self.step, stop.received or signal.SIGTERM)

    def _check_best(self) -> None:
        name = self.setup.config.train.best_metric.lstrip("-")
        if name and name not in self.last:
            raise UserError(f"train.best_metric: '{name}' is not logged; there are: {', '.join(sorted(self.last))}")

    def _account(self, done: _Pending, state: Any) -> None:
        """Reads a step's metrics, logs them if that is due, and refuses a loss that is not finite."""
        metrics = {name: float(value) for name, value in jax.device_get(done.metrics).items()}
        if not metrics.pop("healthy"):
            self._refuse(done, metrics, state)
        metrics["learning_rate"] = float(self.setup.curve(done.step)) * self.setup.highest_rate
        self.tokens += self.speed.note(done.batch, done.waited, done.flops)
        self.window.add(metrics)
        if done.logs:
            self._log(done.step + 1)

    def _save(self, state: Any, data: dict[str, Any]) -> None:
        self.checkpoints.save(self.step, state, self.place(data), self.last)

    def _keep(self, pending: _Pending | None, place: dict[str, Any], state: Any) -> None:
        """Saves ``state`` before an error ends the run; over several processes the others would not save along."""
        if pending is not None:
            self._account(pending, state)
        if jax.process_count() == 1 and self.step and self.step not in self.checkpoints.steps():
            self._save(state, place)
            self.checkpoints.wait()

    def _refuse(self, done: _Pending, metrics: dict[str, float], state: Any) -> None:
        """Saves the last good state, with the bad batch still to come, and names the batch's rows."""
        self.step = done.step
        if self.step not in self.checkpoints.steps():
            self._save(state.replace(healthy=~state.healthy), done.place)
        self.checkpoints.wait()
        rows = [self.setup.loader.data.row_id(int(row)) for row in np.ravel(done.batch.row_index) if row >= 0]
        shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        raise UserError(
            f"step {self.step + 1}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']} (rows {shown}); "
            f"no parameter was changed, step {self.step} is saved; lower the learning rate or remove the row"
        )

    def close(self) -> None:
        if self.writer:
            self.writer.close()
        self.checkpoints.close()
