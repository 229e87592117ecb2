"""Logged metrics: ``metrics.jsonl``, TensorBoard (tables of texts too), and the means between two log lines."""

from __future__ import annotations

import contextlib
import html
import json
import math
import re
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboardX.proto.types_pb2 import DT_STRING

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


@dataclass(frozen=True)
class TextTable:
    """Texts in rows and columns, such as sampled answers, and the images (PNG files) that they are about."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    images: tuple[bytes, ...] = ()


class Tracker(Protocol):
    """Where log lines go."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of one step. Raises UserError if it cannot."""

    def show(self, step: int, table: TextTable) -> None:
        """Shows a table, if the tracker can. Raises UserError if it could not be written."""

    def close(self) -> None:
        """Never raises: ``write`` has reported what could not be written."""


def open_trackers(workdir: Path, resumed_step: int) -> tuple[Tracker, ...]:
    """The trackers of every run. Lines that an earlier process logged after ``resumed_step`` no longer count.

    Raises:
      UserError: a log could not be opened.
    """
    return JsonLines(workdir / FILE, resumed_step), Board(workdir / "tensorboard", resumed_step + 1)


class JsonLines:
    """One JSON object per log line, appended to a file; lines after ``resumed_step`` are dropped first."""

    def __init__(self, path: Path, resumed_step: int):
        self._path = path
        kept = [line for line in _lines(path) if line["step"] <= resumed_step] if path.exists() else []
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """NaN is written as null, which every JSON reader accepts."""
        clean = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        try:
            self._file.write(json.dumps({"step": step} | clean) + "\n")
            self._file.flush()
        except OSError as error:
            raise files.not_written(self._path, error) from error

    def show(self, step: int, table: TextTable) -> None:
        """Nothing: a file of numbers."""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


class Board:
    """An event file for TensorBoard, written by the caller's own thread.

    tensorboardX's SummaryWriter hands events to a thread through a queue of ten; a full disk ends that thread with a
    traceback, and the run then waits forever for space in the queue.
    """

    def __init__(self, folder: Path, first_step: int):
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # the name contains the second, so a run that is resumed at once would write to the same file
            self._events = EventsWriter(str(folder / "events"), f".{first_step}")
            # TensorBoard hides the points of an earlier process from this step on
            self._put(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))
        except OSError as error:
            raise files.not_written(folder, error) from error

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._summarise(step, [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()])

    def show(self, step: int, table: TextTable) -> None:
        """A table in the Text tab, and its images in the Images tab."""
        cells = [table.columns, *(tuple(map(literal, row)) for row in table.rows)]
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in (len(cells), len(table.columns))])
        text = [cell.encode() for row in cells for cell in row]
        values = [
            Summary.Value(
                tag=f"{table.name}/text_summary",
                metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
                tensor=TensorProto(dtype=DT_STRING, string_val=text, tensor_shape=shape),
            )
        ]
        for index, png in enumerate(table.images):
            width, height = struct.unpack(">II", png[16:24])  # of its header
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
            values.append(Summary.Value(tag=f"{table.name}/image/{index}", image=image))
        self._summarise(step, values)

    def _summarise(self, step: int, values: list[Any]) -> None:
        try:
            self._put(Event(step=step, summary=Summary(value=values)))
        except OSError as error:
            raise files.not_written(self._folder, error) from error

    def _put(self, event: Any) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)
        self._events.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._events.close()


def literal(text: str) -> str:
    """The text as Markdown that shows it as it is: TensorBoard renders texts as Markdown with HTML in it.

    Escaped is what Python's Markdown lets one escape. An indented first line would be a block of code.
    """
    escaped = re.sub(r"([\\`*_{}\[\]()#+\-.!|])", r"\\\1", html.escape(text, quote=False))
    joined = re.sub(r"\r\n|\r|\n", "<br>", escaped)
    return re.sub(r"^[ \t]+", lambda spaces: "&nbsp;" * len(spaces.group().expandtabs(4)), joined)


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
    for line in _lines(path):
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


def _lines(path: Path) -> list[dict[str, Any]]:
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
