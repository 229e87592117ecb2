"""Where a run's numbers go: ``metrics.jsonl`` and TensorBoard; and their means between two log lines."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from pivot_jax import files
from pivot_jax.errors import UserError


class Window:
    """Means of metrics over the steps since the last log line; its state goes into the checkpoint."""

    def __init__(self, state: dict[str, list[float]] | None = None):
        self._sums: dict[str, list[float]] = dict(state or {})

    def add(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            total, count = self._sums.get(name, [0.0, 0])
            self._sums[name] = [total + value, count + 1]

    def take(self) -> dict[str, float]:
        """The means; the window starts anew."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return means

    def state(self) -> dict[str, list[float]]:
        return {name: list(pair) for name, pair in self._sums.items()}


class MetricsWriter:
    """Appends one JSON object per log line; on resume, lines behind the checkpoint's step are dropped."""

    def __init__(self, workdir: Path, resumed_step: int):
        self.path = workdir / "metrics.jsonl"
        kept = [line for line in self._lines() if line["step"] <= resumed_step]
        files.write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a")
        try:
            self._board = Board(workdir / "tensorboard", resumed_step + 1)
        except OSError as error:
            raise files.not_written(workdir / "tensorboard", error) from error

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return read(self.path)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """NaN is written as null, which every JSON reader takes.

        Raises:
          UserError: the line could not be written.
        """
        clean = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        try:
            self._file.write(json.dumps({"step": step} | clean) + "\n")
            self._file.flush()
            self._board.write(step, metrics)
        except OSError as error:
            raise files.not_written(self.path, error) from error

    def close(self) -> None:
        """Never raises: what was written is on disk, and what could not be written was said then."""
        for part in (self._file, self._board):
            with contextlib.suppress(OSError):
                part.close()


class Board:
    """An event file for TensorBoard, written by the caller's own thread.

    tensorboardX's SummaryWriter hands events to a thread through a queue of ten; a full disk ends that thread with a
    traceback, and the run then waits for ever for room in the queue.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        # the name holds the second and would be the same for a run that is continued at once
        self._events = EventsWriter(str(folder / "events"), f".{first_step}")
        # TensorBoard hides what an earlier process wrote from this step on
        self._put(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._put(Event(step=step, summary=Summary(value=values)))

    def _put(self, event: Any) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)
        self._events.flush()

    def close(self) -> None:
        self._events.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of a ``metrics.jsonl``, without the unfinished last line of a killed run.

    Raises:
      UserError: no such file.
    """
    if not path.is_file():
        raise UserError(f"no metrics at {path}; has the run started?")
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
