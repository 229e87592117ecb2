"""Rows of Arrow tables: Parquet files, and data sets written by ``datasets.save_to_disk``."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data.sources.raw_files import file_fingerprint, optional
from pivot_jax.errors import UserError

WHOLE = 1 << 30  # bytes of Parquet files that are decoded into memory as a whole
KEPT = 4  # row groups of larger files that stay decoded


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

    def column(self, name: str) -> list[Any]:
        """The values of a column, None in every row where there is no such column."""
        return self._table[name].to_pylist() if name in self._table.column_names else [None] * len(self)

    def location(self, index: int) -> str:
        """``name[INDEX]``, from 0."""
        return f"{self.name}[{index}]"


class RowGroups:
    """Rows of Parquet files that are larger than :data:`WHOLE`, which are decoded a row group at a time.

    The groups read last are kept, so rows in order cost one pass; rows in random order decode a group each.
    """

    def __init__(self, files: Sequence[Any], columns: Sequence[str], name: str, fingerprint: str):
        self.name, self.fingerprint = name, fingerprint
        self._columns = tuple(columns)
        self._groups = [(file, group) for file in files for group in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()  # a Parquet file has one reader

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[which - 1]) if which else 0
        row = self._table(which).slice(index - start, 1).to_pylist()[0]
        return {name: row.get(name) for name in self._columns}  # of the shards with fewer columns, too

    def column(self, name: str) -> list[Any]:
        """As :meth:`TableRows.column`; the other columns are not decoded."""
        values: list[Any] = []
        with self._lock:
            for file, group in self._groups:
                there = name in file.schema_arrow.names
                rows = file.metadata.row_group(group).num_rows
                values += file.read_row_group(group, [name])[name].to_pylist() if there else [None] * rows
        return values

    def _table(self, which: int) -> Any:
        with self._lock:
            if which not in self._kept:
                file, group = self._groups[which]
                self._kept[which] = file.read_row_group(group)
            self._kept.move_to_end(which)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[which]

    def location(self, index: int) -> str:
        """``name[INDEX]``, from 0."""
        return f"{self.name}[{index}]"


def from_parquet(paths: Sequence[Path], name: str) -> TableRows | RowGroups:
    """The rows of the files, one after the other.

    Raises:
      UserError: a file is not Parquet, or the files have different columns.
    """
    arrow, parquet = optional("pyarrow", paths[0]), optional("pyarrow.parquet", paths[0])
    small = sum(path.stat().st_size for path in paths) <= WHOLE
    opened = []
    for path in paths:
        try:
            file = parquet.ParquetFile(path, memory_map=True)
            opened.append(file.read() if small else file)
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors are among these
            raise UserError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    fingerprint = "\n".join(map(file_fingerprint, paths))
    try:
        if small:
            return TableRows(arrow.concat_tables(opened, promote_options="default"), name, fingerprint)
        columns = arrow.unify_schemas([file.schema_arrow for file in opened]).names
        return RowGroups(opened, columns, name, fingerprint)
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{paths[0].parent}: its Parquet files have different columns ({reason})") from None


def from_saved(path: Path) -> TableRows:
    """The rows of a folder that ``datasets.save_to_disk`` wrote. Raises UserError for any other folder."""
    datasets = optional("datasets", path)
    try:
        rows = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a data set ({str(error).splitlines()[0]})") from None
    return of_dataset(rows, path.name, file_fingerprint(path))


def of_dataset(rows: Any, name: str, fingerprint: str) -> TableRows:
    """The rows of a ``datasets.Dataset``, which stay in its memory-mapped files.

    The library would open an image by its path, wherever that leads; in the Arrow table it is ``{"bytes", "path"}``.
    """
    return TableRows(rows.with_format("arrow")[:], name, fingerprint)
