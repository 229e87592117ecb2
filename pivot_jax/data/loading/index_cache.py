"""Indexes that are used again: arms, seeds and evaluations read the same rows.

Those of small data sets are kept with their rows in the process, those of large ones in :mod:`array_cache`. An index
depends on the data file's path, size and time, the tokenizer, the limits and the images' geometry.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from pivot_jax.data import array_cache
from pivot_jax.data.loading.index import Index, RowStore, build_index
from pivot_jax.data.loading.workers import Workers
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.sources import Source
from pivot_jax.errors import RowError
from pivot_jax.words import counted

log = logging.getLogger(__name__)
STORE_FROM = 20_000  # rows; smaller sets are read again in seconds
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
    return array_cache.key([LAYOUT, source.fingerprint, len(source), settings, vocabulary])


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
    path = array_cache.path_of(key)
    index = array_cache.load(path, lambda arrays: _index(arrays, len(source)))
    if index is not None and _holds(index, source, workers.processor):
        log.info("index of %s taken from %s", source.name, path)
        array_cache.used(path)
        return index
    log.info("%s: %s are tokenised before training, once for all runs", source.name, counted(len(source), "row"))
    index = build_index(source, workers, store.keep)
    arrays = {"source_rows": index.source_rows, "lengths": index.lengths, "targets": index.targets}
    arrays |= {"bad": np.asarray(json.dumps(index.bad)), "truncated": np.asarray(index.truncated)}
    arrays |= {"columns": np.asarray(json.dumps(index.columns))}
    array_cache.save(path, arrays, f"index of {source.name}")
    return index


def _index(arrays: Mapping[str, np.ndarray], size: int) -> Index:
    """The index of ``size`` rows that was stored. Raises ValueError if it is of others."""
    bad = tuple((int(row), str(row_id), str(reason)) for row, row_id, reason in json.loads(str(arrays["bad"])))
    columns = tuple((str(name), int(count)) for name, count in json.loads(str(arrays["columns"])))
    usable, lengths, targets = arrays["source_rows"], arrays["lengths"], arrays["targets"]
    rows = np.sort(np.concatenate([usable, np.asarray([row for row, _, _ in bad], np.int64)]))
    if not np.array_equal(rows, np.arange(size)) or not len(usable) == len(lengths) == len(targets):
        raise ValueError("it is of other rows")
    return Index(usable, lengths, targets, bad, int(arrays["truncated"]), columns)
