"""Random-access sources of examples, and the views that choose among their rows."""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.sources.rows import Rows, row_id_of
from pivot_jax.errors import RowError

IMAGE = "<image>"
_URL = re.compile(r"(data|https?|ftp|s3|gs):", re.IGNORECASE)
_NUMBERED = re.compile(r"<image\s?\d+>")


class Source(Protocol):
    """Examples by index; ``source[i]`` raises RowError for a bad row. ``fingerprint`` "" means: not known."""

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Endless:
    """A source that makes an example for every index, however large: ``make(index)``, always the same one.

    ``len()`` is the largest there can be. Such a source has no epochs; online RL takes its examples in order, and
    ``"sampling": "first:N"`` makes a source of N examples from it.

    Attributes:
      columns: names of ``Example.extra`` that its examples have, not every one of them all.
    """

    def __init__(self, make: Callable[[int], Example], name: str, fingerprint: str, columns: Sequence[str]):
        self.name, self.fingerprint, self.columns = name, fingerprint, tuple(columns)
        self._make = make

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Example:
        if index < 0:
            raise IndexError(index)
        return self._make(index)


class Mapped:
    """Rows of a file, each made an example by ``convert(row, row_id)``."""

    def __init__(
        self, rows: Rows, convert: Callable[[dict[str, Any], str], Example], options: str = "", id_key: str = "id"
    ):
        self.rows, self.convert, self.id_key = rows, convert, id_key
        self.name = rows.name
        self.fingerprint = f"{rows.fingerprint}|{options}" if rows.fingerprint else ""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        return self.convert(row, row_id_of(row, self.rows, index, self.id_key))


class Selected:
    """Some rows of a source, in the order of ``indices``; an index may occur more than once."""

    def __init__(self, source: Source, indices: np.ndarray, options: str):
        self.source, self.indices = source, np.asarray(indices, np.int64)
        self.name = source.name
        self.fingerprint = f"{source.fingerprint}|{options}" if source.fingerprint else ""

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]


class RowByRow:
    """A source whose row i is made of row i of another one."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)


class Joined:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = tuple(sources)
        self.name = "+".join(source.name for source in self.sources)
        known = all(source.fingerprint for source in self.sources)
        self.fingerprint = "\n".join(source.fingerprint for source in self.sources) if known else ""
        self._ends = np.cumsum([len(source) for source in self.sources])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Example:
        part, index = self.part(index)
        return part[index]

    def part(self, index: int) -> tuple[Source, int]:
        """The source that a row is from, and the row's number there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[which], index - (int(self._ends[which - 1]) if which else 0)


def origin(source: Source, index: int) -> tuple[str, int]:
    """The file or data set that a row comes from, and the row's number in it, from 0, whatever chose and changed it."""
    while True:
        if isinstance(source, Joined):
            source, index = source.part(index)
        elif isinstance(source, Selected):
            index = int(source.indices[index])
            source = source.source
        elif isinstance(source, RowByRow):
            source = source.source
        else:
            return source.name, index


def listed(images: Any) -> list[Any]:
    """None → [], one image → [image], a list as it is."""
    if images is None or images == "":
        return []
    return list(images) if isinstance(images, (list, tuple)) else [images]


@dataclass(frozen=True)
class ImageRoot:
    """Folder that the relative image paths of a data file start at, and that all its images have to be in.

    A data file comes from somebody else; without this rule its rows could name any file of this machine. Links in the
    folder are followed, wherever they lead: a data file cannot make one.

    Attributes:
      folder: None: that of the data file; "": of rows handed over in Python, whose paths are taken as they are.
      anywhere: images may be outside the folder (``data.allow_outside_root``).
    """

    folder: str | None = None
    anywhere: bool = False

    @classmethod
    def of(cls, image_root: str | Path | ImageRoot | None) -> ImageRoot:
        if isinstance(image_root, ImageRoot):
            return image_root
        return cls(None if image_root is None else str(image_root))

    def __str__(self) -> str:
        return f"{self.folder}|anywhere" if self.anywhere else str(self.folder)

    @cached_property
    def _absolute(self) -> tuple[str, str]:
        return os.path.abspath(self.folder or ""), os.path.realpath(self.folder or "")

    def path(self, relative: str | Path) -> str | None:
        """The path from the folder, None where it is outside. An absolute one has to be in the folder as well."""
        if not self.folder or self.anywhere:
            return os.path.join(self.folder or "", relative)
        relative = os.path.normpath(relative)  # so that "link/../.." is what it says, wherever the link leads
        if os.path.isabs(relative):
            inside = any(Path(relative).is_relative_to(folder) for folder in self._absolute)
        else:
            inside = relative.split(os.sep, 1)[0] != os.pardir
        return os.path.join(self.folder, relative) if inside else None


def root_of(path: Any, image_root: str | Path | ImageRoot | None) -> ImageRoot:
    """Where the images of a data file are: ``image_root``, or the file's own folder."""
    root = ImageRoot.of(image_root)
    if root.folder is not None:
        return root
    return replace(root, folder=str(Path(path).parent) if isinstance(path, (str, Path)) else "")


def rooted(images: Any, root: ImageRoot, row_id: str) -> tuple[Any, ...]:
    """Image references of a row; paths are those of ``root``, and ``data:`` URLs become bytes.

    Raises:
      RowError: something that cannot be an image reference, a path outside the root, or a URL of the network, from
        which nothing is read.
    """
    out = []
    for image in listed(images):
        if isinstance(image, dict):  # datasets.Image: {"bytes": ..., "path": ...}
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str) and (scheme := _URL.match(image)):
            image = _of_url(image, scheme[1].lower(), row_id)
        elif isinstance(image, (str, Path)):
            if (path := root.path(image)) is None:
                raise RowError(
                    row_id,
                    f"image {image} is outside {root.folder}; copy or link it there, or, for training data that you "
                    "trust, set data.allow_outside_root=True",
                )
            image = path
        elif image is None or isinstance(image, (int, float, bool)):
            raise RowError(row_id, f"image reference {image!r} is not a path, bytes or an image")
        out.append(image)
    return tuple(out)


def _of_url(url: str, scheme: str, row_id: str) -> bytes:
    if scheme != "data":
        raise RowError(
            row_id, f"image {url[:80]} is a URL, and training reads no network; download it and give the file's path"
        )
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise RowError(row_id, f"image {url[:40]}… is no data:image/…;base64,… URL")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise RowError(row_id, f"image {head},… is not base64 ({error})") from None


def front_image(text: str) -> str:
    """A single ``<image>`` inside the text is moved to its beginning, before a newline, as in LLaVA's preprocessing.

    Text with several images keeps them where they are.
    """
    if text.count(IMAGE) == 1 and not text.startswith(IMAGE):
        text = f"{IMAGE}\n{text.replace(IMAGE, '').strip()}".strip()
    return text


def placed(text: str, count: int) -> str:
    """The question as it is where it has ``<image>``; else with one per image before the text."""
    return text if IMAGE in text else f"{IMAGE}\n" * count + text


def with_images(text: str, count: int) -> str:
    """The question with one ``<image>`` per image; where there is none, they are put before the text.

    Numbered marks ``<image1>`` become ``<image>`` if each image has one. Otherwise they point at parts of one stitched
    image (MATH-Vision): they are removed, and ``<image>`` is put before the text.
    """
    marks = _NUMBERED.findall(text)
    if marks and len(set(marks)) == len(marks) == count:
        text = _NUMBERED.sub(IMAGE, text)
    else:
        text = _NUMBERED.sub("", text).strip() if marks else text
    if text.count(IMAGE) == 1:
        return f"{IMAGE}\n{text.replace(IMAGE, '').strip()}"
    return f"{IMAGE}\n" * count + text if IMAGE not in text else text
