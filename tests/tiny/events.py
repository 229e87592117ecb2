"""Events that a run wrote for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def read(folder: Path) -> list[Event]:
    """All events of the files in a folder, older files first."""
    events = []
    for file in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):  # length, its checksum, event, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            events.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16
    return events
