"""Rows of JSON files of any size: JSON Lines, and one list of objects, as LLaVA's data are.

The rows are never in memory. One pass finds where they are in the file, 8 to 16 bytes a row, which is kept for other
runs (:mod:`array_cache`); a row is parsed when it is read. Threads may read at the same time. A compressed file is
decompressed once, into a file that is gone with the process.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data import array_cache
from pivot_jax.data.sources.raw_files import READ_CHUNK, file_fingerprint, open_plain
from pivot_jax.errors import RowError, UserError

STORE_FROM = 64 << 20  # bytes; smaller files are gone through again in a second
LAYOUT = 1  # of a stored index; one of another layout is made again
_SPACE = re.compile(r"[ \t\r\n]*")
_BYTE_ORDER_MARK = "\xef\xbb\xbf"

Index = tuple[np.ndarray, np.ndarray]  # int64 each; see what scans


class JsonLines:
    """One JSON object a line; empty lines are skipped."""

    def __init__(self, path: str | Path):
        self.path, self.name = Path(path), Path(path).name
        self.fingerprint = file_fingerprint(path)
        self._file = open_plain(self.path)
        self._breaks, blank = _index("lines", self._file.fileno(), self.fingerprint, self.name, _line_breaks)
        lines = len(self._breaks) - 1
        # The line of each row, from 0.
        self._lines: Sequence[int] | np.ndarray = range(lines) if not len(blank) else np.delete(np.arange(lines), blank)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        line = int(self._lines[index])
        start, end = int(self._breaks[line]) + 1, int(self._breaks[line + 1])
        where = f"{self.path}:{line + 1}"
        try:
            row = json.loads(os.pread(self._file.fileno(), end - start, start))
        except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise RowError(where, f"malformed JSON line ({error}); fix or delete the line") from None
        return as_row(row, where)

    def location(self, index: int) -> str:
        """``file.jsonl:LINE``, as editors count."""
        return f"{self.name}:{int(self._lines[index]) + 1}"


class JsonList:
    """The objects of a list.

    Raises:
      UserError: the file is not one list in JSON, or not UTF-8.
    """

    def __init__(self, path: str | Path):
        self.path, self.name = Path(path), Path(path).name
        self.fingerprint = file_fingerprint(path)
        self._file = open_plain(self.path)
        try:
            self._starts, self._ends = _index("list", self._file.fileno(), self.fingerprint, self.name, _elements)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a JSON list ({error})") from None

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end = int(self._starts[index]), int(self._ends[index])
        return as_row(json.loads(os.pread(self._file.fileno(), end - start, start)), self.location(index))

    def location(self, index: int) -> str:
        """``name[INDEX]``, from 0."""
        return f"{self.name}[{index}]"


def as_row(row: Any, where: str) -> dict[str, Any]:
    """What was read at ``where``. Raises RowError if it has no named fields."""
    if not isinstance(row, Mapping):
        raise RowError(where, f"the row is {type(row).__name__}, not an object with named fields")
    return dict(row)


def _index(kind: str, descriptor: int, fingerprint: str, name: str, scan: Callable[[int], Index]) -> Index:
    """What ``scan`` finds in a file; of a large file from an earlier run, if there was one."""
    size = os.fstat(descriptor).st_size
    if size < STORE_FROM:
        return scan(descriptor)

    def stored(arrays: Mapping[str, np.ndarray]) -> Index:
        first, second = arrays["first"], arrays["second"]
        if int(arrays["size"]) != size or first.dtype != np.int64 or second.dtype != np.int64:
            raise ValueError("it is of another file")
        return first, second

    path = array_cache.path_of(array_cache.key([kind, LAYOUT, fingerprint]))
    if (found := array_cache.load(path, stored)) is not None:
        array_cache.used(path)
        return found
    first, second = scan(descriptor)
    array_cache.save(path, {"first": first, "second": second, "size": np.asarray(size)}, f"index of {name}")
    return first, second


def _line_breaks(descriptor: int) -> Index:
    """Where lines break, [lines + 1], and which lines are blank, from 0.

    Line i is between ``breaks[i]`` and ``breaks[i + 1]``; the first is -1, the last the file's size.
    """
    found, offset = [np.asarray([-1])], 0
    while chunk := os.pread(descriptor, READ_CHUNK, offset):
        found.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + offset)
        offset += len(chunk)
    breaks = np.concatenate([*found, np.asarray([offset])])
    short = np.flatnonzero(np.diff(breaks) < 4)  # only a short line can be blank without being looked at
    content = (os.pread(descriptor, int(breaks[i + 1] - breaks[i] - 1), int(breaks[i] + 1)) for i in short)
    return breaks, short[np.asarray([not text.strip() for text in content], bool)]


def _elements(descriptor: int) -> Index:
    """Where the elements of a list start and end, [rows] each. Raises ValueError for anything but a list."""
    text, starts, ends = _Text(descriptor), array("q"), array("q")
    text.take("[")
    while starts or text.peek() != "]":
        start, end = text.element()
        starts.append(start)
        ends.append(end)
        if text.peek() == "]":
            break
        text.take(",")
    text.take("]")
    text.take("")
    return np.array(starts, np.int64), np.array(ends, np.int64)


class _Text:
    """JSON from a file, of which a part is in memory.

    A character stands for a byte (Latin-1): all that JSON's grammar knows of is ASCII, and bytes of other characters
    are above it. So positions are those in the file, whatever is in the texts.
    """

    def __init__(self, descriptor: int):
        self._descriptor, self._check = descriptor, codecs.getincrementaldecoder("utf-8")()
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at, self._start, self._ended = "", 0, 0, False  # _start: of the part, in the file
        self._more()
        self._at = len(_BYTE_ORDER_MARK) if self._text.startswith(_BYTE_ORDER_MARK) else 0

    def _more(self) -> None:
        """Forgets what is behind, and reads at least as much as is ahead, so that a long element costs linear time."""
        self._text, self._start, self._at = self._text[self._at :], self._start + self._at, 0
        chunk = os.pread(self._descriptor, max(READ_CHUNK, len(self._text)), self._start + len(self._text))
        self._check.decode(chunk, final=not chunk)
        self._text += chunk.decode("latin-1")
        self._ended = not chunk

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def take(self, wanted: str) -> None:
        """Passes the next character; "" is the end."""
        if self.peek() != wanted:
            raise ValueError(f"{wanted or 'the end'!r} expected, byte {self._start + self._at}")
        self._at += len(wanted)

    def element(self) -> tuple[int, int]:
        """Passes a value; where it starts and ends in the file."""
        self.peek()
        while True:
            try:
                _, end = self._parse(self._text, self._at)
                if end < len(self._text) or self._ended:  # else a number might continue
                    span = self._start + self._at, self._start + end
                    self._at = end
                    return span
            except json.JSONDecodeError as error:
                if self._ended:
                    raise ValueError(f"{error.msg}, byte {self._start + error.pos}") from None
            self._more()
