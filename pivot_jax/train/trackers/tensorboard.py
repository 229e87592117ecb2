"""TensorBoard: event files in ``WORKDIR/tensorboard``, written without the ``tensorboard`` package."""

from __future__ import annotations

import html
import json
import re
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboardX.proto.types_pb2 import DT_STRING

from pivot_jax import files
from pivot_jax.train.trackers.base import Bundle, Facts, TextTable


class TensorBoard:
    """An event file, written by the caller's own thread.

    tensorboardX's SummaryWriter hands events to a thread through a queue of ten; a full disk ends that thread with a
    traceback, and whoever writes then waits forever for space in the queue.
    """

    holds = False

    def __init__(self, facts: Facts):
        self._folder = facts.workdir / "tensorboard"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # the name contains the second, so a run that is resumed at once would write to the same file
            self._events = EventsWriter(str(self._folder / "events"), f".{facts.first_step}")
            # TensorBoard hides the points of an earlier process from this step on
            self._put(Event(step=facts.first_step, session_log=SessionLog(status=SessionLog.START)))
        except OSError as error:
            raise files.not_written(self._folder, error) from error
        self._show_texts(facts.first_step, "config", [["<pre>" + _verbatim(facts.config) + "</pre>"]])

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._summarise(step, [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()])

    def show(self, step: int, table: TextTable) -> None:
        """A table in the Text tab, and its images in the Images tab."""
        columns, rows = table.numbered()
        self._show_texts(step, table.name, [columns, *(tuple(map(literal, row)) for row in rows)])
        values = []
        for index, png in enumerate(table.images):
            width, height = struct.unpack(">II", png[16:24])  # of its header
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
            values.append(Summary.Value(tag=f"{table.name}/image/{index}", image=image))
        if values:
            self._summarise(step, values)

    def keep(self, bundle: Bundle) -> None:
        """Event files hold no files: the Text tab says where they are."""
        paths = [*bundle.files, *([bundle.folder] if bundle.folder else [])]
        self._show_texts(0, f"files/{bundle.name}", [["path"], *([literal(str(path.absolute()))] for path in paths)])

    def close(self, finished: bool) -> None:
        self._events.close()

    def _show_texts(self, step: int, name: str, cells: Sequence[Sequence[str]]) -> None:
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in (len(cells), len(cells[0]))])
        text = [cell.encode() for row in cells for cell in row]
        value = Summary.Value(
            tag=f"{name}/text_summary",
            metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
            tensor=TensorProto(dtype=DT_STRING, string_val=text, tensor_shape=shape),
        )
        self._summarise(step, [value])

    def _summarise(self, step: int, values: list[Any]) -> None:
        try:
            self._put(Event(step=step, summary=Summary(value=values)))
        except OSError as error:
            raise files.not_written(self._folder, error) from error

    def _put(self, event: Any) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)
        self._events.flush()


def literal(text: str) -> str:
    """The text as Markdown that shows it as it is: TensorBoard renders texts as Markdown with HTML in it.

    Escaped is what Python's Markdown lets one escape. An indented first line would be a block of code.
    """
    escaped = re.sub(r"([\\`*_{}\[\]()#+\-.!|])", r"\\\1", html.escape(text, quote=False))
    joined = re.sub(r"\r\n|\r|\n", "<br>", escaped)
    return re.sub(r"^[ \t]+", lambda spaces: "&nbsp;" * len(spaces.group().expandtabs(4)), joined)


def _verbatim(config: Mapping[str, Any]) -> str:
    return html.escape(json.dumps(config, indent=2, ensure_ascii=False), quote=False)
