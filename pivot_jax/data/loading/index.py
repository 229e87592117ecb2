"""The pass over all rows before training: which are usable, how long they are, and why the others are not.

Texts are tokenised; images are not opened, only looked for. For large data sets the result is stored in the workdir,
keyed by everything that it depends on, so a resumed run does not tokenise millions of rows again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax import files
from pivot_jax.data.example import Example
from pivot_jax.data.loading.workers import Workers
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.sources import Source
from pivot_jax.errors import RowError
from pivot_jax.progress import progress

log = logging.getLogger(__name__)
STORE_FROM = 50_000  # rows; smaller sets are read again in seconds
LAYOUT = 2  # of a stored index; one of another layout is made again
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


def _usable(source: Source, position: int, processor: Processor) -> bool:
    """Whether a bad row has become usable: the data file is the same, but a missing image may exist now."""
    try:
        processor.encode(source[position])
    except RowError:
        return False
    return True


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


# Results of the last loaders of this process: arms and seeds of one study use the same rows again and again.
_RECENT: dict[str, tuple[Index, RowStore]] = {}
RECENT = 6


def read_index(
    source: Source, workers: Workers, settings: dict[str, Any], capacity: int, folder: Path | None
) -> tuple[Index, RowStore]:
    """The index of a source and its kept rows: from memory, from ``folder``, or from a pass over all rows.

    Args:
      settings: everything besides source and tokenizer that the tokens depend on.
      capacity: bytes of encoded rows to keep in memory.
    """
    store = RowStore(capacity)
    if not source.fingerprint:
        return build_index(source, workers, store.keep), store
    tokenizer = workers.processor.chat.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    content = json.dumps(
        [LAYOUT, source.fingerprint, len(source), settings, capacity, vocabulary], sort_keys=True, default=str
    )
    key = hashlib.sha256(content.encode()).hexdigest()[:16]

    def holds(index: Index) -> bool:
        return not any(_usable(source, position, workers.processor) for position, _, _ in index.bad)

    if key in _RECENT and holds(_RECENT[key][0]):
        return _RECENT[key]
    path = None if folder is None or len(source) < STORE_FROM else folder / f"index-{key}.npz"
    if path is not None and path.is_file() and holds(stored := _load(path)):
        log.info("index of %s taken from %s", source.name, path)
        return stored, store
    index = build_index(source, workers, store.keep)
    if path is not None:
        _save(index, path)
    elif len(source) < STORE_FROM:
        _RECENT[key] = index, store
        while len(_RECENT) > RECENT:
            del _RECENT[next(iter(_RECENT))]
    return index, store


def _save(index: Index, path: Path) -> None:
    arrays = {"source_rows": index.source_rows, "lengths": index.lengths, "targets": index.targets}
    arrays |= {"bad": np.asarray(json.dumps(index.bad)), "truncated": np.asarray(index.truncated)}
    arrays |= {"columns": np.asarray(json.dumps(index.columns))}
    with files.whole(path) as partial:
        np.savez(partial, allow_pickle=False, **arrays)


def _load(path: Path) -> Index:
    with np.load(path) as stored:
        bad = tuple((int(row), str(row_id), str(reason)) for row, row_id, reason in json.loads(str(stored["bad"])))
        columns = tuple((str(name), int(count)) for name, count in json.loads(str(stored["columns"])))
        arrays = stored["source_rows"], stored["lengths"], stored["targets"]
        return Index(*arrays, bad, int(stored["truncated"]), columns)
