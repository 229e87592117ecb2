"""Random access to the raw rows of a file, before they are interpreted.

A line that is not JSON is a bad *row*; a file that cannot be read at all is a bad *source*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pivot_jax.config.paths import nearest, unset
from pivot_jax.data.sources.delimited import DELIMITERS, DelimitedRows
from pivot_jax.data.sources.folders import from_folder
from pivot_jax.data.sources.hub import PREFIX, from_hub
from pivot_jax.data.sources.json_files import JsonLines, JsonList, as_row
from pivot_jax.data.sources.raw_files import open_plain, plain_suffix
from pivot_jax.data.sources.tables import from_parquet
from pivot_jax.errors import RowError, UserError


class Rows(Protocol):
    """Dicts by index. ``fingerprint`` changes when the content does; "" means it is not known."""

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def location(self, index: int) -> str:
        """The row's location, which identifies a row without an id of its own."""
        ...


class MemoryRows:
    """Rows that are already Python dicts."""

    def __init__(self, rows: Sequence[Any], name: str = "rows", fingerprint: str = ""):
        self.name, self.fingerprint = name, fingerprint
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return as_row(self._rows[index], self.location(index))

    def location(self, index: int) -> str:
        """``name[INDEX]``, from 0."""
        return f"{self.name}[{index}]"


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
    return JsonList(path)


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
