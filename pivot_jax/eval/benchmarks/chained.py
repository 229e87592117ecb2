"""Rows of several files as one, and their columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pivot_jax.data.sources.rows import Rows
from pivot_jax.data.sources.tables import RowGroups, TableRows


def column(rows: Rows, name: str) -> list[Any]:
    """The values of a column, None where it is missing. Of Parquet files nothing else is read."""
    if isinstance(rows, TableRows | RowGroups | Chained):
        return rows.column(name)
    return [rows[position].get(name) for position in range(len(rows))]


class Chained:
    """Rows of several configurations, one after the other."""

    def __init__(self, parts: Sequence[Rows]):
        self.parts = tuple(parts)
        self.name = parts[0].name
        self.fingerprint = "\n".join(part.fingerprint for part in parts) if all(p.fingerprint for p in parts) else ""
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _at(self, index: int) -> tuple[Rows, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[which], index - (int(self._ends[which - 1]) if which else 0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, own = self._at(index)
        return part[own]

    def location(self, index: int) -> str:
        """The row's place in its own part."""
        part, own = self._at(index)
        return part.location(own)

    def column(self, name: str) -> list[Any]:
        """As :func:`column`."""
        return [value for part in self.parts for value in column(part, name)]
