"""Random access to the raw rows of a file, before they are interpreted.

JSON Lines files are never in memory: an index of where lines break (8 bytes a line) is built once, and a row is parsed
when it is read. A line that is not JSON is a bad *row*; a file that cannot be read at all is a bad *source*.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pivot_jax.config.paths import nearest, unset
from pivot_jax.data import array_cache
from pivot_jax.data.sources.delimited import DELIMITERS, DelimitedRows
from pivot_jax.data.sources.folders import from_folder
from pivot_jax.data.sources.hub import PREFIX, from_hub
from pivot_jax.data.sources.raw_files import READ_CHUNK, file_fingerprint, open_plain, plain_suffix
from pivot_jax.data.sources.tables import from_parquet
from pivot_jax.errors import RowError, UserError

STORE_FROM = 64 << 20  # bytes; where the lines of smaller files break is found in a tenth of a second
LAYOUT = 1  # of a stored index; one of another layout is made again


class Rows(Protocol):
    """Dicts by index. ``fingerprint`` changes when the content does; "" means it is not known."""

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def location(self, index: int) -> str:
        """The row's location, which identifies a row without an id of its own."""
        ...


class JsonLines:
    """One JSON object a line; empty lines are skipped. Threads may read at the same time.

    A compressed file is decompressed once, into a file that is gone with the process.
    """

    def __init__(self, path: str | Path):
        self.path, self.name = Path(path), Path(path).name
        self.fingerprint = file_fingerprint(path)
        self._file = open_plain(self.path)
        self._breaks, blank = _line_index(self._file.fileno(), self.fingerprint, self.name)
        lines = len(self._breaks) - 1
        # The line of each row, from 0.
        self._lines: Sequence[int] = range(lines) if not len(blank) else np.delete(np.arange(lines), blank)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        line = int(self._lines[index])
        start, end = int(self._breaks[line]) + 1, int(self._breaks[line + 1])
        try:
            row = json.loads(os.pread(self._file.fileno(), end - start, start))
        except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            where = f"{self.path}:{line + 1}"
            raise RowError(where, f"malformed JSON line ({error}); fix or delete the line") from None
        return _as_row(row, f"{self.path}:{line + 1}")

    def location(self, index: int) -> str:
        """``file.jsonl:LINE``, as editors count."""
        return f"{self.name}:{int(self._lines[index]) + 1}"


Lines = tuple[np.ndarray, np.ndarray]  # see _scan


def _line_index(descriptor: int, fingerprint: str, name: str) -> Lines:
    """As :func:`_scan`; of a large file from an earlier run, if there was one."""
    size = os.fstat(descriptor).st_size
    if size < STORE_FROM:
        return _scan(descriptor)

    def stored(arrays: Mapping[str, np.ndarray]) -> Lines:
        breaks, blank = arrays["breaks"], arrays["blank"]
        if breaks.dtype != np.int64 or breaks[0] != -1 or breaks[-1] != size:
            raise ValueError("it is of another file")
        return breaks, blank

    path = array_cache.path_of(array_cache.key(["lines", LAYOUT, fingerprint]))
    if (found := array_cache.load(path, stored)) is not None:
        array_cache.used(path)
        return found
    breaks, blank = _scan(descriptor)
    array_cache.save(path, {"breaks": breaks, "blank": blank}, f"index of {name}")
    return breaks, blank


def _scan(descriptor: int) -> Lines:
    """Where a file's lines break, int64 [lines + 1]: line i is between ``breaks[i]`` and ``breaks[i + 1]``.

    The first is -1, the last the file's size. Beside it, which lines are blank, from 0.
    """
    found, offset = [np.asarray([-1])], 0
    while chunk := os.pread(descriptor, READ_CHUNK, offset):
        found.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + offset)
        offset += len(chunk)
    breaks = np.concatenate([*found, np.asarray([offset])])
    short = np.flatnonzero(np.diff(breaks) < 4)  # only a short line can be blank without being looked at
    content = (os.pread(descriptor, int(breaks[i + 1] - breaks[i] - 1), int(breaks[i] + 1)) for i in short)
    return breaks, short[[not text.strip() for text in content]] if len(short) else short


class MemoryRows:
    """Rows that are already Python dicts."""

    def __init__(self, rows: Sequence[Any], name: str = "rows", fingerprint: str = ""):
        self.name, self.fingerprint = name, fingerprint
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _as_row(self._rows[index], self.location(index))

    def location(self, index: int) -> str:
        """``name[INDEX]``, from 0."""
        return f"{self.name}[{index}]"


def _as_row(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise RowError(where, f"the row is {type(row).__name__}, not an object with named fields")
    return dict(row)


def existing(path: str | Path) -> Path:
    """The path of a file. Raises UserError for a missing one; the message names the nearest."""
    found = Path(path)
    if not found.is_file():
        fix = nearest(found, files=True) + (unset(path) or "; check 'path' in data.sources")
        raise UserError(f"{path}: no such file{fix}")
    return found


def open_rows(path: Any, split: str = "", config: str = "") -> Rows:
    """Rows of a file, of a data set's folder, of a data set of the hub, or a list.

    Files are ``.jsonl``, ``.json`` (one list, or one object a line), ``.parquet``, and ``.tsv`` or ``.csv`` with a
    header; all but Parquet may be compressed (``.jsonl.gz``, ``.tsv.zst``). A folder was written by
    ``datasets.save_to_disk`` (one data set, or a dict of splits), or holds ``.parquet`` files named by split, as data
    sets on the hub do (:mod:`folders`). ``hf:OWNER/NAME[/CONFIG][@SPLIT]`` is on the hub itself.

    Args:
      split: of a data set with several splits.
      config: of a data set with several configurations, which differ in their columns or questions.

    Raises:
      UserError: no such file, split or configuration, or the content does not match the suffix.
    """
    if isinstance(path, str) and path.startswith(PREFIX):
        return from_hub(path, split, config)
    if not isinstance(path, (list, tuple)) and Path(path).is_dir():
        return from_folder(Path(path), split, config)
    for name, kind in ((split, "split"), (config, "configuration")):
        if name:
            raise UserError(f"data.sources: {kind} '{name}' of something that is not a folder of {kind}s; leave it out")
    if isinstance(path, (list, tuple)):
        return MemoryRows(path)
    return _from_file(existing(path))


def _from_file(path: Path) -> Rows:
    suffix = plain_suffix(path)
    if path.suffix == ".parquet":
        return from_parquet([path], path.name)
    if suffix in DELIMITERS:
        return DelimitedRows(path, DELIMITERS[suffix])
    if suffix == ".jsonl":
        return JsonLines(path)
    if _first_character(path) != "[":
        return _checked_lines(path)
    try:
        with open_plain(path) as file:
            rows = json.loads(file.read().decode("utf-8-sig"))  # a byte-order mark is no part of the list
    except ValueError as error:
        raise UserError(f"{path}: not a JSON list ({error})") from None
    return MemoryRows(rows, path.name, file_fingerprint(path))


def _checked_lines(path: Path) -> JsonLines:
    """JSON Lines in a file of another suffix. Raises UserError if the first line is not JSON: then no line will be."""
    rows = JsonLines(path)
    try:
        for _ in range(min(len(rows), 1)):
            rows[0]
    except RowError as error:
        raise UserError(
            f"{path}: neither a JSON list of rows nor one JSON object a line ({error.reason.split(';')[0]})"
        ) from None
    return rows


def _first_character(path: Path) -> str:
    with open_plain(path) as file:
        return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")[:1].decode("latin-1")


def need(row: Mapping[str, Any], key: str, kind: type | tuple[type, ...], row_id: str) -> Any:
    """``row[key]``, which must exist and have the type.

    Raises:
      RowError: names the field and the type that it has.
    """
    value = row.get(key)
    if value is None:
        raise RowError(row_id, f"field '{key}' is missing (fields: {', '.join(map(str, row)) or 'none'})")
    if not isinstance(value, kind):
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise RowError(row_id, f"field '{key}' is {type(value).__name__}, not {wanted}")
    return value


def row_id_of(row: Mapping[str, Any], rows: Rows, index: int, key: str = "id") -> str:
    """The row's own id, or its location in the file where it has none."""
    own = row.get(key)
    return rows.location(index) if own is None else str(own)
