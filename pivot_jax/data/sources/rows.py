"""Random access to the raw rows of a file, before they are interpreted.

JSON Lines files are never read whole: an index of line starts is built once, and a row is parsed when it is read. A
line that is not JSON is a bad *row*; a file that cannot be read at all is a bad *source*.
"""

from __future__ import annotations

import gzip
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from pivot_jax.config.paths import nearest, unset
from pivot_jax.errors import RowError, UserError, suggest

READ_CHUNK = 1 << 24  # bytes


class Rows(Protocol):
    """Dicts by index. ``fingerprint`` changes when the content does; "" means it is not known."""

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def location(self, index: int) -> str:
        """The row's location, which identifies a row without an id of its own."""
        ...


def file_fingerprint(path: str | Path) -> str:
    """Path, size and modification time: cheap, and different whenever the file was rewritten."""
    stat = os.stat(path)
    return f"{Path(path).resolve()}|{stat.st_size}|{stat.st_mtime_ns}"


class JsonLines:
    """One JSON object a line; empty lines are skipped. Threads may read at the same time.

    A compressed file is decompressed once, into a file that is gone with the process.
    """

    def __init__(self, path: str | Path):
        self.path, self.name = Path(path), Path(path).name
        self.fingerprint = file_fingerprint(path)
        self._file = _open(self.path)
        self._starts, self._ends, self._lines = _line_index(self._file.fileno())

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end = int(self._starts[index]), int(self._ends[index])
        where = f"{self.path}:{int(self._lines[index])}"
        try:
            row = json.loads(os.pread(self._file.fileno(), end - start, start))
        except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise RowError(where, f"malformed JSON line ({error}); fix or delete the line") from None
        return _as_row(row, where)

    def location(self, index: int) -> str:
        """``file.jsonl:LINE``, as editors count."""
        return f"{self.name}:{int(self._lines[index])}"


def _open(path: Path) -> IO[bytes]:
    """The file's content, decompressed where its name says so; lives as long as what reads it."""
    if path.suffix not in COMPRESSED:
        return open(path, "rb")
    plain: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        COMPRESSED[path.suffix](path, plain)
    except Exception as error:  # each library raises its own
        plain.close()
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno):  # such as a full disk
            raise
        raise UserError(f"{path}: not a whole {path.suffix} file ({error}); fetch it again") from None
    plain.seek(0)
    return plain


def _gunzip(path: Path, plain: IO[bytes]) -> None:
    with gzip.open(path) as packed:
        shutil.copyfileobj(packed, plain, READ_CHUNK)


def _unzstd(path: Path, plain: IO[bytes]) -> None:
    """By frames: the library's own file reader takes a file that is cut within one for a whole file."""
    decompressor = _optional("zstandard", path).ZstdDecompressor()
    with open(path, "rb") as packed:
        frame = decompressor.decompressobj()
        while chunk := packed.read(READ_CHUNK):
            while chunk:
                frame = decompressor.decompressobj() if frame.eof else frame
                plain.write(frame.decompress(chunk))
                chunk = frame.unused_data
    if not frame.eof:
        raise EOFError("it ends within a frame")


COMPRESSED: dict[str, Callable[[Path, IO[bytes]], None]] = {".gz": _gunzip, ".zst": _unzstd}


def _line_index(descriptor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, ends (bytes) and line numbers (from 1) of the lines that are not blank."""
    breaks, offset = [], 0
    while chunk := os.pread(descriptor, READ_CHUNK, offset):
        breaks.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + offset)
        offset += len(chunk)
    ends = np.concatenate([*breaks, np.asarray([offset])]).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    short = np.flatnonzero(ends - starts < 3)  # only a short line can be blank without being looked at
    blank = [i for i in short if not os.pread(descriptor, int(ends[i] - starts[i]), int(starts[i])).strip()]
    keep = np.ones(len(starts), bool)
    keep[blank] = False
    return starts[keep], ends[keep], np.flatnonzero(keep) + 1


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


def open_rows(path: Any, split: str = "") -> Rows:
    """Rows of a ``.jsonl``, ``.json`` or ``.parquet`` file, of a data set's folder, or a list.

    JSON may be compressed (``.jsonl.gz``, ``.json.zst``). A ``.json`` file may hold one list, or one object a line.
    A folder was written by ``datasets.save_to_disk`` (one data set, or a dict of splits), or holds ``.parquet`` files
    named by split, as data sets on the hub do.

    Args:
      split: of a folder with several splits.

    Raises:
      UserError: no such file or split, or the content does not match the suffix.
    """
    if not isinstance(path, (list, tuple)) and Path(path).is_dir():
        return _from_folder(Path(path), split)
    if split:
        raise UserError(f"data.sources: split '{split}' of something that is not a folder of splits; leave it out")
    if isinstance(path, (list, tuple)):
        return MemoryRows(path)
    path = existing(path)
    if path.suffix == ".parquet":
        return _from_parquet([path], path.name)
    if (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix == ".jsonl":
        return JsonLines(path)
    if _first_character(path) != "[":
        return _checked_lines(path)
    try:
        with _open(path) as file:
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
    with _open(path) as file:
        return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")[:1].decode("latin-1")


def _optional(module: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{path}: reading it needs '{module.split('.')[0]}'; install it or convert to .jsonl") from None


class TableRows:
    """Rows of an Arrow table. They become Python objects one by one, when they are read; encoded images stay bytes."""

    def __init__(self, table: Any, name: str, fingerprint: str):
        self.name, self.fingerprint = name, fingerprint
        self._table = table

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._table.slice(index, 1).to_pylist()[0]

    def location(self, index: int) -> str:
        """``name[INDEX]``, from 0."""
        return f"{self.name}[{index}]"


def _from_parquet(paths: Sequence[Path], name: str) -> Rows:
    """The rows of the files, one after the other."""
    arrow, parquet = _optional("pyarrow", paths[0]), _optional("pyarrow.parquet", paths[0])
    tables = []
    for path in paths:
        try:
            tables.append(parquet.read_table(path))
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors are among these
            raise UserError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    try:
        table = arrow.concat_tables(tables, promote_options="default")
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{paths[0].parent}: its Parquet files have different columns ({reason})") from None
    return TableRows(table, name, "\n".join(map(file_fingerprint, paths)))


def _from_folder(path: Path, split: str) -> Rows:
    if (path / "state.json").is_file():
        if split:
            raise UserError(f"{path}: one data set without splits, so there is no '{split}'; leave 'split' out")
        return _from_datasets(path)
    if (path / "dataset_dict.json").is_file():
        parts = {part.parent.name: part.parent for part in path.glob("*/state.json")}
        return _from_datasets(parts[_chosen(path, split, parts)])
    files: dict[str, list[Path]] = {}
    found = (file for depth in ("", "*/", "*/*/") for file in path.glob(f"{depth}*.parquet"))
    for file in sorted(found):
        own = file.stem.partition("-")[0]  # train-00000-of-00004
        files.setdefault(file.parent.name if own.isdigit() else own, []).append(file)
    if not files:
        raise UserError(
            f"{path}: a folder, but neither a data set written by datasets.save_to_disk (no state.json) nor one with "
            ".parquet files"
        )
    chosen = _chosen(path, split, files)
    return _from_parquet(files[chosen], f"{path.name}/{chosen}")


def _chosen(path: Path, split: str, known: Mapping[str, Any]) -> str:
    names = ", ".join(sorted(known))
    if split:
        if split not in known:
            raise UserError(f"{path}: no split '{split}' (there are: {names}){suggest(split, known)}")
        return split
    if len(known) != 1:
        raise UserError(f"{path}: holds the splits {names}; name one as 'split' in data.sources")
    return next(iter(known))


def _from_datasets(path: Path) -> Rows:
    datasets = _optional("datasets", path)
    try:
        rows = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a data set ({str(error).splitlines()[0]})") from None
    # The library would open an image by its path, wherever that leads; in the Arrow table it is {"bytes", "path"}.
    return TableRows(rows.with_format("arrow")[:], path.name, file_fingerprint(path))


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
