"""Random access to the rows of ``.tsv`` and ``.csv`` files, as VLMEvalKit, pandas and spreadsheets write them.

A cell may span lines and hold quoted quotes, so a row starts where the reader of the whole file says, not at every
line. One pass finds these starts and checks every row; after that a row is parsed when it is read, because the cells
hold images.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pivot_jax.data.sources.raw_files import file_fingerprint, open_plain
from pivot_jax.errors import UserError

DELIMITERS = {".tsv": "\t", ".csv": ","}


class DelimitedRows:
    """Cells by the names in the header: text, and None where a cell is empty. Threads may read at the same time.

    Attributes:
      columns: names in the header.

    Raises:
      UserError: no header, a name twice or empty in it, a row with fewer or more cells (as in a truncated file), or a
        quote that is never closed; the message names the line.
    """

    def __init__(self, path: str | Path, delimiter: str):
        self.path, self.name = Path(path), Path(path).name
        self.fingerprint = file_fingerprint(path)
        self._delimiter = delimiter
        csv.field_size_limit(sys.maxsize)  # an image in base64 is longer than the 131,072 characters that it allows
        self._file = open_plain(self.path)
        self._starts, self._ends, self._lines = array("q"), array("q"), array("q")
        self.columns = self._scan()

    def _scan(self) -> tuple[str, ...]:
        """Finds where each row is; returns the header."""
        columns: tuple[str, ...] = ()
        lines = _Lines(self._file, self.path)
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        while True:
            start, line = lines.position, lines.number + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise UserError(f"{self.path}:{line}: {_reason(error)}") from None
            if cells is None:
                break
            if not cells:  # a blank line
                continue
            if not columns:
                columns = self._header(cells, line)
            elif len(cells) != len(columns):
                raise UserError(
                    f"{self.path}:{line}: the row has {len(cells)} of {len(columns)} cells; the file is truncated, or "
                    "a cell with a delimiter or line break is not quoted: get the file again"
                )
            else:
                self._starts.append(start)
                self._ends.append(lines.position)
                self._lines.append(line)
        if not columns:
            raise UserError(f"{self.path}: it is empty; its first line should name the columns")
        return columns

    def _header(self, names: list[str], line: int) -> tuple[str, ...]:
        if twice := sorted({name for name in names if names.count(name) > 1 and name}):
            raise UserError(f"{self.path}:{line}: two columns are named '{twice[0]}'; rename or remove one")
        if "" in names:
            raise UserError(
                f"{self.path}:{line}: column {names.index('') + 1} has no name; name it, or remove it "
                "(pandas writes its row numbers so, unless index=False)"
            )
        return tuple(names)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = self._starts[index]
        text = os.pread(self._file.fileno(), self._ends[index] - start, start).decode("utf-8")
        cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter, strict=True))
        return {name: cell or None for name, cell in zip(self.columns, cells, strict=True)}

    def location(self, index: int) -> str:
        """``file.tsv:LINE`` of the row's first line, as editors count."""
        return f"{self.name}:{self._lines[index]}"


class _Lines:
    """Lines of a file as text, with the bytes and lines that were read so far."""

    def __init__(self, file: IO[bytes], path: Path):
        self._file, self._path = file, path
        self.position = self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.position += len(line)
        self.number += 1
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self._path}:{self.number}: not UTF-8 ({error.reason}); convert the file") from None


def _reason(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quote in this row is never closed; the file is truncated: get it again"
    return f"the row is not well formed ({error}); quote a cell with quotes or line breaks, and double its quotes"
