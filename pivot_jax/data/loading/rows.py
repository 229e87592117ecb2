"""The usable rows of a data set: examples, tokens and images by row number."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.loading.image_cache import MIB, ImageCache
from pivot_jax.data.loading.index import Index, RowStore, all_rows
from pivot_jax.data.loading.index_cache import read_index
from pivot_jax.data.loading.skipped import SkipLog
from pivot_jax.data.loading.spot_check import spot_check
from pivot_jax.data.loading.workers import Job, Workers
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.dialects import TEMPLATE
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.data.processing.images import load
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.sources import Endless, Source
from pivot_jax.errors import RowError, UserError
from pivot_jax.words import counted

log = logging.getLogger(__name__)
EACH = 1024  # rows that are in memory at a time in a pass over all of them


class Rows:
    """Rows by number; bad ones have none. Build with :func:`read_rows`.

    Attributes:
      source, processor: where examples come from, and how they become arrays.
      index: lengths and source positions of the rows.
      skipped: :class:`SkipLog` of the bad rows.
    """

    def __init__(
        self, source: Source, workers: Workers, index: Index, store: RowStore, skipped: SkipLog, cache_mib: int
    ):
        self.source, self.processor, self.index, self.skipped = source, workers.processor, index, skipped
        self._workers, self._store = workers, store
        self._images = ImageCache(workers.processor, len(index), cache_mib)

    def __len__(self) -> int:
        return len(self.index)

    def example(self, row: int) -> Example:
        """The example of a row: its text, image references and extra fields."""
        return self.source[int(self.index.source_rows[row])]

    def row_id(self, row: int) -> str:
        stored = self._store.get(row)
        return self.example(row).id if stored is None else stored.id

    def encoded(self, row: int) -> EncodedRow:
        """Tokens of a row; image references may be left out (they are in :meth:`example`)."""
        return self._encoded(row, None)

    def _encoded(self, row: int, example: Example | None) -> EncodedRow:
        found = self._store.get(row)
        if found is None:
            fresh = next(self._workers.encode([example or self.example(row)]))  # which have a time limit
            if isinstance(fresh, RowError):
                raise fresh
            self._store.keep(row, found := fresh)
        return found

    def each(self) -> Iterator[tuple[Example, EncodedRow]]:
        """All usable rows in order; those whose tokens are not kept are tokenised again, by all workers."""
        for first in range(0, len(self), EACH):
            numbers = range(first, min(first + EACH, len(self)))
            examples = [self.example(row) for row in numbers]
            kept = [self._store.get(row) for row in numbers]
            missing = [example for example, row in zip(examples, kept, strict=True) if row is None]
            fresh = self._workers.encode(missing)
            for example, row in zip(examples, kept, strict=True):
                found = row if row is not None else next(fresh)
                if isinstance(found, RowError):
                    raise found
                yield example, found

    def prompt(self, row: int) -> tuple[Example, EncodedRow]:
        """A row's example and its tokens with its images, which are references."""
        example = self.example(row)
        return example, replace(self._encoded(row, example), images=example.images)

    def read(self, rows: np.ndarray) -> tuple[list[EncodedRow | None], ImageArrays, np.ndarray]:
        """Tokens and images of the rows, and the row numbers with -1 for every row that turned out to be bad.

        Args:
          rows: int [b]; -1 is a masked row.
        """
        rows = np.array(rows)
        fresh: dict[int, EncodedRow] = {}
        images, errors = self._images.batch(rows, lambda wanted: self._read(wanted, fresh))
        for index, error in enumerate(errors):
            if error is not None:
                self._skip(rows, index, error)
        encoded = [(fresh.get(int(row)) or self.encoded(int(row))) if row >= 0 else None for row in rows]
        for index, row in enumerate(encoded):
            positions = None if images.positions is None else images.positions[index]
            if row is not None and not self.processor.geometry.fits(row.image_slots, positions):
                self._skip(rows, index, RowError(row.id, "an image has another size than when its row was tokenised"))
                encoded[index] = None
        return encoded, images, rows

    def _skip(self, rows: np.ndarray, index: int, error: RowError) -> None:
        self.skipped.add(int(self.index.source_rows[rows[index]]), error)
        rows[index] = -1

    def _read(self, rows: list[int], fresh: dict[int, EncodedRow]) -> Iterator[ImageArrays | RowError]:
        """Images of the rows, or the error of a bad one; rows that had to be tokenised as well go into ``fresh``."""
        for row, done in zip(rows, self._workers.finish(map(self._job, rows)), strict=True):
            if done.row is not None:
                self._store.keep(row, done.row)
                fresh[row] = done.row
            yield done.images

    def _job(self, row: int) -> Job:
        stored = self._store.get(row)
        if stored is not None and stored.images:
            return Job(stored.id, stored.images, None)
        try:
            example = self.example(row)
        except RowError as error:  # in the pass over all rows it was not bad, or there was none
            return Job(error.row_id, (), error)
        return Job(example.id, example.images, example if stored is None else None)


def read_rows(
    cfg: Any,
    source: Source,
    processor: Processor,
    *,
    workdir: Path | None = None,
    process: int = 0,
    untokenised: tuple[int, int] | None = None,
) -> Rows:
    """Tokenises every row of a source once (or reads the stored result), and sets bad rows aside.

    Args:
      cfg: a run's config; read are ``data`` and ``tokenizer``.
      workdir: where ``skipped.jsonl`` is written; None writes none.
      process: index of this process; each has a ``skipped`` file of its own.
      untokenised: tokens and scored targets that hold every row. Only some rows are then looked at; a bad one is found
        when a batch needs it, and masked.

    Raises:
      UserError: too many bad rows, no usable one, or a source without an end.
    """
    if isinstance(source, Endless):
        raise UserError(
            f"data.sources: {source.name} has no end, and only online RL takes such a source; add "
            "'sampling': 'first:N' to it"
        )
    data, chat = cfg.data, processor.chat
    name = "skipped.jsonl" if process == 0 else f"skipped-{process}.jsonl"
    skipped = SkipLog(None if workdir is None else workdir / name, len(source), data.max_bad_share, source.name)
    workers = Workers(processor, data.workers, data.worker_kind, data.read_timeout_s)
    own = chat.tokenizer
    template = [own.chat_template, own.special_tokens_map] if chat.format.dialect == TEMPLATE else []
    settings = {
        "kind": processor.kind,
        "text": [chat.format, chat.limits, *template],
        "images": [processor.geometry, chat.mrope, processor.check_images],
    }
    if untokenised is None:
        index, store = read_index(source, workers, settings, data.cache_rows_mib * MIB)
        known = index.bad
        found = f"{counted(len(index), 'usable row')}, {len(index.bad)} bad, {index.truncated} truncated"
    else:
        looked = spot_check(source, workers, data.max_bad_share)
        index, store = all_rows(source, untokenised, looked.content), RowStore(data.cache_rows_mib * MIB)
        known = looked.bad
        found = f"{counted(len(index), 'row')}, tokenised when they are read"
    log.info("%s: %s", source.name, found)
    skipped.forget(_fixed(source, skipped, processor, {position for position, _, _ in known}))
    skipped.add_all(known)
    if not len(index):
        last = f"; the last is row '{index.bad[-1][1]}': {index.bad[-1][2]}" if index.bad else ""
        raise UserError(f"{source.name}: none of its {len(source)} rows is usable{last}")
    return Rows(source, workers, index, store, skipped, data.cache_images_mib)


def _fixed(source: Source, skipped: SkipLog, processor: Processor, bad: set[int]) -> set[int]:
    """Source positions that an earlier run listed as bad and that are good now, their images too."""

    def good(position: int) -> bool:
        try:
            for image in processor.encode(source[position]).images if position < len(source) else ():
                load(image)
        except UserError:
            return False
        return True

    return {position for position in skipped.entries if position not in bad and good(position)}
