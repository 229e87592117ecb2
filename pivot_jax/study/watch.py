"""How far the demo's workers are: a bar per seed on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from pivot_jax.study.settings import Study
from pivot_jax.study.tasks import Task, build, marker
from pivot_jax.train import metrics

LOG_EVERY_S = 20.0


class Watch:
    """Reads the markers of finished tasks and the step that a training task has logged; nothing else is shared."""

    def __init__(self, study: Study):
        self._study = study
        self._tasks = {seed: build(study, seed) for seed in study.settings.seeds}
        self._totals = {seed: sum(task.cost for task in tasks) for seed, tasks in self._tasks.items()}
        self._steps: dict[Path, int] = {}
        self._bar: Any = None
        self._bars: dict[int, Any] = {}
        self._began = self._spoken = time.monotonic()
        self._at_start = {seed: self._state(seed)[0] for seed in self._tasks}

    def __enter__(self) -> Watch:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(elapsed_when_finished=True),
            )
            self._bar = progress.Progress(*columns, console=Console(stderr=True), speed_estimate_period=120)
            self._bar.start()
            for seed, total in self._totals.items():
                self._bars[seed] = self._bar.add_task(f"seed {seed}", total=total, completed=self._at_start[seed])
        return self

    def __exit__(self, *_: Any) -> None:
        self.update(last=True)
        if self._bar is not None:
            self._bar.stop()

    def update(self, last: bool = False) -> None:
        """Looks at the files and shows what has changed."""
        states = {seed: self._state(seed) for seed in self._tasks}
        if self._bar is not None:
            for seed, (done, text) in states.items():
                self._bar.update(self._bars[seed], completed=done, description=f"seed {seed}: {text:<26}")
            return
        now = time.monotonic()
        if last or now - self._spoken >= LOG_EVERY_S:
            self._spoken = now
            parts = [f"seed {seed}: {done / self._totals[seed]:.0%} {text}" for seed, (done, text) in states.items()]
            print(f"{' | '.join(parts)}{self._left(states, now)}", file=sys.stderr, flush=True)

    def _left(self, states: dict[int, tuple[float, str]], now: float) -> str:
        """Time left as the slowest seed has it."""
        lefts = []
        for seed, (done, _) in states.items():
            gained = done - self._at_start[seed]
            if gained <= 0:
                return ""
            lefts.append((self._totals[seed] - done) * (now - self._began) / gained)
        return f" | {max(lefts) / 60:.1f} min left" if max(lefts) > 0 else ""

    def _state(self, seed: int) -> tuple[float, str]:
        """(cost done, what is being done)."""
        done, current = 0.0, ""
        for task in self._tasks[seed]:
            if marker(self._study, seed, task.name).exists():
                done += task.cost
            elif not current:
                share, text = self._training(task)
                done, current = done + share * task.cost, text
        return done, current or "done"

    def _training(self, task: Task) -> tuple[float, str]:
        """Share done and text of a task that may be training."""
        if task.run is None or not (task.run / metrics.FILE).exists():
            return 0.0, task.title
        step = metrics.last_step(task.run / metrics.FILE)
        total = self._total(task.run)
        return (step / total, f"{task.title} {step}/{total}") if total else (0.0, f"{task.title} {step}")

    def _total(self, run: Path) -> int:
        """Steps of a run, as far as its config says (else from its batch and data sizes)."""
        if run not in self._steps:
            config = self._study.config(run.name, self._study.settings.seeds[0])
            rows = self._study.settings.sizes[config.data.sources[0]["split"]]
            epochs = config.train.epochs * (rows // config.data.batch_size)
            self._steps[run] = config.train.steps or int(epochs)
        return self._steps[run]
