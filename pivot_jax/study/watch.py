"""Progress of the demo's workers, one bar per seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pivot_jax.progress import Board
from pivot_jax.study.settings import Study
from pivot_jax.study.tasks import Task, build, marker
from pivot_jax.train import metrics


class Watch:
    """Reads the markers of finished tasks and the last step that a training task logged. Workers share nothing else."""

    def __init__(self, study: Study, parallel: int):
        self._study = study
        self._tasks = {seed: build(study, seed) for seed in study.settings.seeds}
        self._steps: dict[Path, int] = {}
        totals = {_job(seed): sum(task.cost for task in tasks) for seed, tasks in self._tasks.items()}
        self._board = Board(totals, {job: done for job, (done, _) in self._states().items()}, parallel)

    def __enter__(self) -> Watch:
        self._board.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.update(last=True)
        self._board.__exit__(*error)

    def update(self, last: bool = False) -> None:
        """Reads the files again and shows the changes."""
        self._board.update(self._states(), last=last)

    def _states(self) -> dict[str, tuple[float, str]]:
        return {_job(seed): self._state(seed) for seed in self._tasks}

    def _state(self, seed: int) -> tuple[float, str]:
        """(cost of the finished part, the current task)."""
        done, current = 0.0, ""
        for task in self._tasks[seed]:
            if marker(self._study, seed, task.name).exists():
                done += task.cost
            elif not current:
                share, text = self._training(task)
                done, current = done + share * task.cost, text
        return done, current or "done"

    def _training(self, task: Task) -> tuple[float, str]:
        """(finished share, text) of a task that may be a training run."""
        if task.run is None or not (task.run / metrics.FILE).exists():
            return 0.0, task.title
        step = metrics.last_step(task.run / metrics.FILE)
        total = self._total(task.run)
        return (step / total, f"{task.title} {step}/{total}") if total else (0.0, f"{task.title} {step}")

    def _total(self, run: Path) -> int:
        """Steps of a run: ``train.steps`` of its config, or else from its epochs, batch size and data size."""
        if run not in self._steps:
            config = self._study.config(run.name, self._study.settings.seeds[0])
            rows = self._study.settings.sizes[config.data.sources[0]["split"]]
            epochs = config.train.epochs * (rows // config.data.batch_size)
            self._steps[run] = config.train.steps or int(epochs)
        return self._steps[run]


def _job(seed: int) -> str:
    return f"seed {seed}"
