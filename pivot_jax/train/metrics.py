"""Where a run's numbers go: ``metrics.jsonl`` and TensorBoard; and their means between two log lines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import tensorboardX


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
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a")
        self._board = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_step + 1)

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return read(self.path)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """NaN is written as null, which every JSON reader takes."""
        clean = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step} | clean) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of a ``metrics.jsonl``; a last line that a killed run left unfinished is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
