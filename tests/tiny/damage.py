"""Ways to damage a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path: Path, position: float, bit: int = 4) -> None:
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_digests(step: Path) -> None:
    """As earlier versions wrote a checkpoint. That is no damage: what is gone is not in its list of items either."""
    shutil.rmtree(step / "digests", ignore_errors=True)
    file = step / "_CHECKPOINT_METADATA"
    items = json.loads(file.read_text())
    del items["item_handlers"]["digests"]
    file.write_text(json.dumps(items))


def other_progress(step: Path) -> None:
    file = step / "progress" / "metadata"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data": {"next": 7}}))


DAMAGE = {
    "array truncated": lambda step: truncate(largest(step / "state")),
    "array emptied": lambda step: largest(step / "state").write_bytes(b""),
    "array missing": lambda step: largest(step / "state").unlink(),
    "array overwritten": lambda step: largest(step / "state").write_bytes(
        b"0" * largest(step / "state").stat().st_size
    ),
    "bit flipped early": lambda step: flip(largest(step / "state"), 0.1),
    "bit flipped late": lambda step: flip(largest(step / "state"), 0.7, 0),
    "state missing": lambda step: shutil.rmtree(step / "state"),
    "metadata of the state missing": lambda step: (step / "state" / "_METADATA").unlink(),
    "metadata of the state truncated": lambda step: truncate(step / "state" / "_METADATA"),
    "folder empty": lambda step: (shutil.rmtree(step), step.mkdir()),
    "progress missing": lambda step: shutil.rmtree(step / "progress"),
    "progress changed": other_progress,
    "progress truncated": lambda step: truncate(step / "progress" / "metadata"),
    "digests missing": lambda step: shutil.rmtree(step / "digests"),
    "digests truncated": lambda step: truncate(step / "digests" / "metadata"),
    "bit of the digests flipped": lambda step: flip(step / "digests" / "metadata", 0.5, 0),
}
