"""Progress of a study's jobs, read from what they write: results, and the last step that a training run logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pivot_jax.progress import Board
from pivot_jax.study import budget
from pivot_jax.study.graph import Graph, Job, is_finished, result_file
from pivot_jax.train import metrics

TRAINING = 4.0  # how many measurements the training of a run counts as


class Progress:
    """One bar for the whole study, in expected minutes, with the jobs that run now."""

    def __init__(self, graph: Graph, jobs: Sequence[Job]):
        self._graph, self._jobs = graph, list(jobs)
        self._minutes = {key: max(budget.minutes(graph, key), 0.01) for job in jobs for key in job.runs}
        # What is measured already takes no time, and would make the jobs seem half done at the start.
        keys = [key for job in jobs for key in job.runs]
        self._missing = {key: [result_file(graph.root, one.result) for one in graph.missing(key)] for key in keys}
        total = sum(self._minutes[key] for key in keys)
        self._board = Board(graph.root.name, total, self._state()[0])

    def __enter__(self) -> Progress:
        self._board.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.update(last=True)
        self._board.__exit__(*error)

    def update(self, last: bool = False) -> None:
        """Reads the files again and shows the changes."""
        self._board.update(*self._state(), last=last)

    def _state(self) -> tuple[float, str]:
        """(expected minutes of what is done, what runs now)."""
        minutes, finished, running = 0.0, 0, []
        for job in self._jobs:
            done, whole, text = self._job(job)
            minutes += done
            finished += done >= whole
            running += [text] if 0 < done < whole and text else []
        return minutes, ", ".join([f"{finished} of {len(self._jobs)} jobs", *running])

    def _job(self, job: Job) -> tuple[float, float, str]:
        """(expected minutes of what is done, of the whole, what it does) of a job."""
        whole = sum(self._minutes[key] for key in job.runs)
        if (self._graph.root / "jobs" / f"{job.key}.json").is_file():
            return whole, whole, ""
        part, text = 0.0, ""
        for key in job.runs:
            share, step = self._training(key)
            missing = self._missing[key]
            done = sum(path.is_file() for path in missing)
            part += self._minutes[key] * (TRAINING * share + done) / (TRAINING + len(missing))
            if step and not text:
                text = f"{key} {step}" if share < 1 else key if done < len(missing) else ""
        return min(part, 0.99 * whole), whole, text

    def _training(self, key: str) -> tuple[float, str]:
        """(finished share, "step/steps") of a training run; the text is empty before its first log line.

        A result of the run says nothing here: where its checkpoint is gone, it is trained again.
        """
        if is_finished(self._graph.root, key):
            return 1.0, "done"
        log = self._graph.folder(key) / metrics.FILE
        if not log.exists():
            return 0.0, ""
        step, total = metrics.last_step(log), self._graph.runs[key].steps
        return (min(step / total, 1.0), f"{step}/{total}") if total else (0.0, str(step))
