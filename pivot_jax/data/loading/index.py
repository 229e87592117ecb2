"""The pass over all rows before training: which are usable, how long they are, and why the others are not.

Texts are tokenised; images are not opened, only looked for. :mod:`index_cache` keeps the result for other runs.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.loading.workers import Workers
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.sources import Source
from pivot_jax.errors import RowError
from pivot_jax.progress import progress

SHOW_FROM = 5_000  # rows; a progress bar for less would only flicker


@dataclass(frozen=True)
class Index:
    """Usable rows in source order, and the bad ones."""

    source_rows: np.ndarray  # int64 [rows]; position in the source
    lengths: np.ndarray  # int32 [rows]; tokens
    targets: np.ndarray  # int32 [rows]; scored targets
    bad: tuple[tuple[int, str, str], ...]  # position in the source, row id, reason
    truncated: int = 0  # rows whose text was truncated
    columns: tuple[tuple[str, int], ...] = ()  # extra fields, and how many of the rows have a value there

    def __len__(self) -> int:
        return len(self.source_rows)

    def fingerprint(self, settings: Any) -> str:
        """Of the rows and what is done with them: changes whenever ``settings`` (plain values) or the lengths do."""
        digest = hashlib.sha256(json.dumps(settings).encode())
        for part in (self.source_rows, self.lengths, self.targets):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]


def build_index(source: Source, workers: Workers, keep: Callable[[int, EncodedRow], None]) -> Index:
    """Reads and encodes every row once. ``keep(usable row number, encoded row)`` may store it for later."""
    source_rows: list[int] = []
    lengths: list[int] = []
    targets: list[int] = []
    bad: list[tuple[int, str, str]] = []
    fields: list[frozenset[str]] = []
    columns: Counter[frozenset[str]] = Counter()
    size, truncated = len(source), 0
    with progress(f"reading {source.name}", size, show=size >= SHOW_FROM) as advance:
        for position, row in enumerate(workers.encode(_examples(source, fields))):
            advance()
            if isinstance(row, RowError):
                bad.append((position, row.row_id, row.reason))
                continue
            keep(len(source_rows), row)
            source_rows.append(position)
            lengths.append(len(row.tokens))
            targets.append(len(row.targets))
            truncated += row.truncated
            columns[fields[position]] += 1
    arrays = np.asarray(source_rows, np.int64), np.asarray(lengths, np.int32), np.asarray(targets, np.int32)
    names = sorted({name for found in columns for name in found})
    counts = tuple((name, sum(count for found, count in columns.items() if name in found)) for name in names)
    return Index(*arrays, tuple(bad), truncated, counts)


def _examples(source: Source, fields: list[frozenset[str]]) -> Iterator[Example | RowError]:
    """All examples; the names of each one's extra fields that have a value are appended to ``fields``."""
    known: dict[frozenset[str], frozenset[str]] = {}  # one object for all rows that have the same
    for position in range(len(source)):
        found: Example | RowError
        try:
            found = source[position]
            own = frozenset(name for name, value in found.extra.items() if value is not None)
        except RowError as error:
            found, own = error, frozenset()
        fields.append(known.setdefault(own, own))
        yield found


class RowStore:
    """Encoded rows kept in memory up to ``capacity`` bytes, with their images if these are paths or bytes."""

    def __init__(self, capacity: int):
        self.capacity, self._rows = capacity, dict[int, EncodedRow]()

    def get(self, row: int) -> EncodedRow | None:
        return self._rows.get(row)

    def keep(self, row: int, encoded: EncodedRow) -> None:
        images = sum(len(image) for image in encoded.images if isinstance(image, bytes))
        size = 28 * len(encoded.tokens) + 1200 + images  # arrays and their objects, roughly
        if size > self.capacity:
            return
        if not all(isinstance(image, (str, bytes)) for image in encoded.images):
            encoded = replace(encoded, images=())
        self.capacity -= size
        self._rows[row] = encoded
