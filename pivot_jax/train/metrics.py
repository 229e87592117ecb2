"""Logged metrics: ``metrics.jsonl``, and the means between two log lines."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.train.metric_names import original

FILE = "metrics.jsonl"
_TAIL = 16384  # bytes; longer than a line


class Window:
    """Means of metrics over the steps since the last log line; its state goes into the checkpoint."""

    def __init__(self, state: dict[str, list[float]] | None = None):
        self._sums: dict[str, list[float]] = dict(state or {})

    def add(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            total, count = self._sums.get(name, [0.0, 0])
            self._sums[name] = [total + value, count + 1]

    def take(self) -> dict[str, float]:
        """The means; the window is then empty."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return means

    def state(self) -> dict[str, list[float]]:
        return {name: list(pair) for name, pair in self._sums.items()}


class JsonLines:
    """One JSON object per log line, appended to a file; lines after ``resumed_step`` are dropped first.

    ``kept`` are the others.
    """

    def __init__(self, path: Path, resumed_step: int):
        self._path = path
        self.kept = [line for line in lines_of(path) if line["step"] <= resumed_step] if path.exists() else []
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in self.kept))
        self._file = path.open("a")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """NaN is written as null, which every JSON reader accepts."""
        clean = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        try:
            self._file.write(json.dumps({"step": step} | clean) + "\n")
            self._file.flush()
        except OSError as error:
            raise files.not_written(self._path, error) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def read(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl`` by step. Lines of the same step are one row: an evaluation has a line of its own.

    The names are TRL's, also where the run logs verl's (``rl.metric_names``).

    A last line that a killed run left unfinished is skipped.

    Raises:
      UserError: no such file, or a broken line that is not the last.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no metrics at {path}; has the run started?")
    by_step: dict[int, dict[str, Any]] = {}
    for line in lines_of(path):
        by_step[line["step"]] = by_step.get(line["step"], {}) | original(line)
    return [by_step[step] for step in sorted(by_step)]


def last_step(path: Path) -> int:
    """Step of the last complete line of a ``metrics.jsonl``, 0 if there is none; cheap enough to poll."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().splitlines()
    for line in reversed(lines):
        with contextlib.suppress(json.JSONDecodeError):
            return int(json.loads(line)["step"])
    return 0


def lines_of(path: Path) -> list[dict[str, Any]]:
    """All lines but an unfinished last one. Raises UserError for another that is broken, and names it."""
    lines, texts = [], path.read_bytes().rstrip().split(b"\n")
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            complete = isinstance(line, dict) and "step" in line
        except ValueError:
            complete = False
        if complete:
            lines.append(line)
        elif number < len(texts):
            raise UserError(f"{path}, line {number}: no JSON object with a 'step'; remove the line")
    return lines
