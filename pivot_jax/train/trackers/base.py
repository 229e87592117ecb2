"""What a tracker takes: metrics, tables of texts with images, and files; and what it remembers of a run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from pivot_jax import files
from pivot_jax.errors import UserError

PROJECT = "pivot-jax"  # in which a tracker files its runs, unless the config or the environment names another
FOLDER = "trackers"  # in the workdir: a file per tracker with what it remembers
_T = TypeVar("_T")


@dataclass(frozen=True)
class TextTable:
    """Texts in rows and columns, such as sampled answers, and the images (PNG files) that they are about.

    ``seen``: of each row the numbers of its images; empty where the table has none.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    images: tuple[bytes, ...] = ()
    seen: tuple[tuple[int, ...], ...] = ()

    def numbered(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """(columns, rows), first the numbers of each row's images: for trackers whose cells hold texts only."""
        if not self.images:
            return self.columns, self.rows
        numbers = (", ".join(map(str, own)) for own in self.seen)
        return ("image", *self.columns), tuple((own, *row) for own, row in zip(numbers, self.rows, strict=True))

    def illustrated(self, image: Callable[[bytes], _T]) -> tuple[tuple[str, ...], list[list[_T | str | None]]]:
        """(columns, rows), first each row's images, as ``image`` makes them of a PNG file; None where it has fewer."""
        most = max(map(len, self.seen), default=0)
        columns = tuple("image" if index == 0 else f"image {index + 1}" for index in range(most))
        rows: list[list[_T | str | None]] = []
        for index, row in enumerate(self.rows):
            own = [image(self.images[number]) for number in self.seen[index]] if most else []
            rows.append([*own, *[None] * (most - len(own)), *row])
        return (*columns, *self.columns), rows


def pixels(png: bytes) -> Image.Image:
    """The image of a PNG file."""
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


@dataclass(frozen=True)
class Bundle:
    """Files of a run that are kept together under a name, and a folder that is too large to copy: its path is kept."""

    name: str
    files: tuple[Path, ...]
    folder: Path | None = None


class Tracker(Protocol):
    """One tracker of one run. Called by one thread (``feed``), in the order of the steps; may raise anything.

    ``holds``: whether the lines of a step are lost if the process is killed before a line of a later step.
    """

    holds: bool

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Stores the metrics of a step. A step may have several lines, such as training and evaluation."""

    def show(self, step: int, table: TextTable) -> None:
        """Stores a table and its images."""

    def keep(self, bundle: Bundle) -> None:
        """Stores files."""

    def close(self, finished: bool) -> None:
        """Stores what is still in memory. ``finished``: False where the run ended before its last step."""


class Memory:
    """What a tracker remembers of a run between processes: its id there, and how far it is.

    Args:
      path: JSON file. place: where the tracker keeps the run, such as server and project; what was remembered of
        another place is forgotten, and the whole log goes to the new one.

    Raises:
      UserError: the file is damaged.
    """

    def __init__(self, path: Path, place: Mapping[str, str]):
        self._path = path
        self._content: dict[str, Any] = {"place": dict(place)}
        if path.exists():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
                if known["place"] == self._content["place"]:
                    self._content = known
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} is damaged ({error!r}); remove it: the tracker begins a new run") from None

    def get(self, key: str, default: Any = None) -> Any:
        return self._content.get(key, default)

    def set(self, **values: Any) -> None:
        """Remembers values. Raises UserError if they could not be written."""
        self._content |= values
        files.write_text(self._path, json.dumps(self._content, indent=1))

    def once(self, key: str, make: Callable[[], str]) -> str:
        """The remembered value; made and remembered where there is none."""
        if key not in self._content:
            self.set(**{key: make()})
        return self._content[key]


@dataclass(frozen=True)
class Facts:
    """What a tracker is told of the run when it is opened.

    Attributes:
      project: ``train.tracker_project``; "" leaves it to the tracker's environment variable, then :data:`PROJECT`.
      config: all keys, nested.
      first_step: the first step that this process will write.
    """

    workdir: Path
    name: str
    project: str
    config: Mapping[str, Any]
    first_step: int
    memory: Memory
