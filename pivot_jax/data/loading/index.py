"""Which rows are usable, how long they are, and why the others are not: from a pass over all rows before training.

Texts are tokenised; images are not opened, only looked for. :mod:`index_cache` keeps the result for other runs. There
is no Python object per row, so an index of 3.2 million rows takes 51 MB.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
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
    """Usable rows in source order, and the bad ones.

    Rows that are not tokenised before training (:func:`all_rows`) all count as usable, and as long as they may be.
    """

    source_rows: np.ndarray  # int64 [rows]; position in the source
    lengths: np.ndarray  # int32 [rows]; tokens
    targets: np.ndarray  # int32 [rows]; scored targets
    bad: tuple[tuple[int, str, str], ...]  # position in the source, row id, reason
    truncated: int = 0  # rows whose text was truncated
    columns: tuple[tuple[str, int], ...] = ()  # extra fields, and how many of the rows have a value there
    content: str = ""  # of rows that are not tokenised before training: a digest of some of them

    def __len__(self) -> int:
        return len(self.source_rows)

    def fingerprint(self, settings: list[Any]) -> str:
        """Of the rows and what is done with them: changes whenever ``settings`` (plain values) or the lengths do."""
        known = [*settings, self.content] if self.content else settings
        digest = hashlib.sha256(json.dumps(known).encode())
        for part in (self.source_rows, self.lengths, self.targets):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()[:16]


def build_index(source: Source, workers: Workers, keep: Callable[[int, EncodedRow], None]) -> Index:
    """Reads and encodes every row once. ``keep(usable row number, encoded row)`` may store it for later."""
    size, usable, truncated = len(source), 0, 0
    source_rows = np.empty(size, np.int64)
    lengths, targets = np.empty(size, np.int32), np.empty(size, np.int32)
    bad: list[tuple[int, str, str]] = []
    fields: deque[frozenset[str]] = deque()
    columns: Counter[frozenset[str]] = Counter()
    with progress(f"reading {source.name}", size, show=size >= SHOW_FROM) as advance:
        for position, row in enumerate(workers.encode(_examples(source, fields))):
            advance()
            own = fields.popleft()
            if isinstance(row, RowError):
                bad.append((position, row.row_id, row.reason))
                continue
            keep(usable, row)
            source_rows[usable], lengths[usable], targets[usable] = position, len(row.tokens), len(row.targets)
            usable += 1
            truncated += row.truncated
            columns[own] += 1
    names = sorted({name for found in columns for name in found})
    counts = tuple((name, sum(count for found, count in columns.items() if name in found)) for name in names)
    if usable < size:
        source_rows, lengths, targets = source_rows[:usable].copy(), lengths[:usable].copy(), targets[:usable].copy()
    return Index(source_rows, lengths, targets, tuple(bad), truncated, counts)


def _examples(source: Source, fields: deque[frozenset[str]]) -> Iterator[Example | RowError]:
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


def all_rows(source: Source, size: tuple[int, int], content: str) -> Index:
    """All rows of a source, none of them read.

    Args:
      size: tokens and scored targets that every row is taken to have, which hold the longest.
      content: digest of the rows that were looked at (:mod:`spot_check`).
    """
    lengths, targets = (np.broadcast_to(np.int32(number), len(source)) for number in size)
    return Index(np.arange(len(source), dtype=np.int64), lengths, targets, (), content=content)


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
