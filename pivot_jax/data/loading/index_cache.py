"""Indexes that are used again: arms, seeds and evaluations read the same rows.

Those of small data sets are kept with their rows in the process. Those of large ones are files in ``indexes`` of the
cache folder (:func:`files.cache_folder`), which all runs share. A file's name is a hash of everything that the index
depends on: the data file's path, size and time, the tokenizer, the limits and the images' geometry. Files may be
deleted at any time; those that were not used for longest go when all of them need more than :data:`LIMIT`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax import files
from pivot_jax.data.loading.index import Index, RowStore, build_index
from pivot_jax.data.loading.workers import Workers
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.sources import Source
from pivot_jax.errors import RowError, UserError

log = logging.getLogger(__name__)
STORE_FROM = 20_000  # rows; smaller sets are read again in seconds
LIMIT = 2 << 30  # bytes of all files; a row takes 16
LAYOUT = 3  # of a stored index; one of another layout is made again
RECENT = 6  # indexes of small data sets in this process
_RECENT: dict[str, tuple[Index, RowStore]] = {}


def read_index(source: Source, workers: Workers, settings: dict[str, Any], capacity: int) -> tuple[Index, RowStore]:
    """The index of a source and its kept rows: from this process, from the cache folder, or from a pass over all rows.

    Args:
      settings: everything besides source and tokenizer that the tokens depend on.
      capacity: bytes of encoded rows to keep in memory.
    """
    store = RowStore(capacity)
    if not source.fingerprint:
        return build_index(source, workers, store.keep), store
    key = _key(source, workers.processor.chat.tokenizer, settings)
    if len(source) >= STORE_FROM:
        return _stored(key, source, workers, store), store
    key = f"{key} {capacity}"
    if key in _RECENT and _holds(_RECENT[key][0], source, workers.processor):
        return _RECENT[key]
    index = build_index(source, workers, store.keep)
    _RECENT[key] = index, store
    while len(_RECENT) > RECENT:
        del _RECENT[next(iter(_RECENT))]
    return index, store


def _key(source: Source, tokenizer: Any, settings: dict[str, Any]) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    content = [LAYOUT, source.fingerprint, len(source), settings, vocabulary]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _holds(index: Index, source: Source, processor: Processor) -> bool:
    """Whether all bad rows still are: the data file is the same, but a missing image may exist now."""

    def usable(position: int) -> bool:
        try:
            processor.encode(source[position])
        except RowError:
            return False
        return True

    return not any(usable(position) for position, _, _ in index.bad)


def _stored(key: str, source: Source, workers: Workers, store: RowStore) -> Index:
    path = files.cache_folder() / "indexes" / f"{key}.npz"
    index = _load(path, len(source))
    if index is not None and _holds(index, source, workers.processor):
        log.info("index of %s taken from %s", source.name, path)
        with contextlib.suppress(OSError):
            os.utime(path)
        return index
    index = build_index(source, workers, store.keep)
    try:
        _save(index, path)
    except UserError as error:  # the run does not need the file
        log.warning("index of %s not kept for other runs: %s", source.name, error)
    return index


def _save(index: Index, path: Path) -> None:
    arrays = {"source_rows": index.source_rows, "lengths": index.lengths, "targets": index.targets}
    arrays |= {"bad": np.asarray(json.dumps(index.bad)), "truncated": np.asarray(index.truncated)}
    arrays |= {"columns": np.asarray(json.dumps(index.columns))}
    with files.whole(path) as partial:
        np.savez(partial, allow_pickle=False, **arrays)
    with contextlib.suppress(OSError):  # another run may delete at the same time
        found = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in path.parent.glob("*.npz"))
        total = sum(size for _, size, _ in found)
        for _, size, file in found[:-1]:
            if total > LIMIT:
                file.unlink(missing_ok=True)
                total -= size


def _load(path: Path, size: int) -> Index | None:
    """A stored index of ``size`` rows; None where there is none, or a damaged one."""
    try:
        with np.load(path) as stored:
            bad = tuple((int(row), str(row_id), str(reason)) for row, row_id, reason in json.loads(str(stored["bad"])))
            columns = tuple((str(name), int(count)) for name, count in json.loads(str(stored["columns"])))
            arrays = stored["source_rows"], stored["lengths"], stored["targets"]
            index = Index(*arrays, bad, int(stored["truncated"]), columns)
        rows = np.sort(np.concatenate([index.source_rows, np.asarray([row for row, _, _ in bad], np.int64)]))
        if not np.array_equal(rows, np.arange(size)) or not len(arrays[0]) == len(arrays[1]) == len(arrays[2]):
            raise ValueError("it is of other rows")
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is damaged (%s); it is made again", path, error)
        return None
    return index
