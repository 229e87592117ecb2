"""Batches for training and evaluation.

1. Every row is tokenised once (:mod:`rows`): bad rows are set aside, the others measured. Without
   ``data.tokenize_first`` some rows are looked at (:mod:`spot_check`).
2. The schedule (:mod:`schedule`) says which rows are in batch number i, from the seed alone; of these, :mod:`packing`
   says which share a sequence.
3. grain iterates over the batch numbers: random access, threads, prefetching. The state of its iterator is one number,
   so a restored run reads exactly the batches that the killed one had not read, on any number of processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data.loading.packing import Packer
from pivot_jax.data.loading.prefetch import LoaderIterator, read_ahead
from pivot_jax.data.loading.rows import Rows, read_rows
from pivot_jax.data.loading.schedule import Buckets, Schedule, assign, local_slice
from pivot_jax.data.processing.batch import Batch
from pivot_jax.data.processing.chat import Kind
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.sources import Endless, Source, open_source
from pivot_jax.data.sources.mismatched import Mismatched
from pivot_jax.errors import UserError
from pivot_jax.shapes import round_up
from pivot_jax.words import counted

log = logging.getLogger(__name__)
TOKEN_STEP, TARGET_STEP = 16, 8  # a bucket made from the data is rounded up to these


def build_loader(
    cfg: Any,
    processor: Processor,
    *,
    process: tuple[int, int] = (0, 1),
    workdir: str | Path | None = None,
    sources: Sequence[Mapping[str, Any]] | Source | None = None,
    batch_size: int | None = None,
) -> Loader:
    """The loader that a config describes. Reads the data: every row is tokenised once (``data.tokenize_first``).

    Args:
      cfg: a run's config; read are ``data``, ``tokenizer``, ``seed``, ``train.epochs``, ``train.steps`` and, for
        captions, ``model.text.max_length``.
      processor: encodes the rows; its ``kind`` says which batches come out.
      process: (index, count); which part of every batch is loaded here.
      workdir: where ``skipped.jsonl`` is written; None writes none.
      sources: in place of ``data.sources``: config entries, or a source.
      batch_size: in place of ``data.batch_size`` (evaluation); rows are then not packed.

    Raises:
      UserError: no usable source, too many bad rows, fewer rows than a batch, or a batch that does not divide.
    """
    source = open_source(cfg, sources)
    if processor.kind == "unpaired" and not isinstance(source, Endless):  # which no loader takes
        source = Mismatched(source, cfg.seed)
    packed = batch_size is None and processor.kind in ("sft", "preference", "unpaired")
    packing = cfg.data.packing if packed else 1
    size = cfg.data.batch_size if batch_size is None else batch_size
    part = local_slice(size, *process, packing)  # a batch that cannot be split is an error before the data are read
    folder = None if workdir is None else Path(workdir)
    measured = cfg.data.tokenize_first or batch_size is not None
    largest = None if measured else _only_bucket(processor.kind, cfg)
    rows = read_rows(cfg, source, processor, workdir=folder, process=process[0], untokenised=largest)
    return Loader(cfg, rows, size, packing, part)


class Loader:
    """Batches of one data set. Iterate for training; :meth:`ordered` and :meth:`one_pass` yield every row once.

    Args:
      part: slice of a global batch that is loaded here.

    Attributes:
      data: the :class:`Rows`.
      rows: usable rows. ``row_index`` in a batch counts them, -1 is a masked row.
      packing: rows that share a sequence.
      buckets: static shapes (n tokens, t targets) of a sequence that batches can have.
      steps_per_epoch, total_steps: full batches in an epoch (the rest is dropped, another one each epoch) and in
        training (``train.steps``, or ``train.epochs`` rounded up to whole steps).
    """

    def __init__(self, cfg: Any, data: Rows, batch_size: int, packing: int, part: slice):
        self.data, self.processor, self.kind = data, data.processor, data.processor.kind
        self.batch_size, self.packing, self._part = batch_size, packing, part
        self._prefetch = cfg.data.prefetch
        self.skipped, self.source, self.rows = data.skipped, data.source, len(data)
        self.packer = Packer(data.index.lengths, data.index.targets, packing)
        given = _given_buckets(self.kind, cfg)
        bucket_of = self.packer.groups(given) if len(given) > 1 else np.zeros(self.rows, np.int32)
        self.schedule = Schedule(bucket_of, batch_size, cfg.seed, cfg.data.shuffle, packing)
        self.steps_per_epoch = self.schedule.steps_per_epoch
        wanted = cfg.train.steps or math.ceil(cfg.train.epochs * self.steps_per_epoch - 1e-9)
        self.total_steps = wanted if self.steps_per_epoch else 0
        self.buckets = self._check_buckets(given)
        self._ref_logps: np.ndarray | None = None

    @cached_property
    def target_offsets(self) -> np.ndarray:
        """int64 [rows + 1]; where the scored targets of each row begin in an array of all of them."""
        return np.concatenate([[0], np.cumsum(self.data.index.targets, dtype=np.int64)])

    def set_ref_logps(self, ref_logps: np.ndarray) -> None:
        """Stored reference log-probs to put into every batch: float32 [targets of all rows], one row after the other.

        Row i has those of ``target_offsets[i]`` to ``target_offsets[i + 1]``. A row with a value that is not finite
        (its image could not be read then) is masked.
        """
        ref_logps = np.asarray(ref_logps, np.float32)
        wanted = (int(self.target_offsets[-1]),)
        if ref_logps.shape != wanted:
            raise UserError(
                f"reference log-probs have shape {ref_logps.shape}, the data set needs {wanted}, one per scored "
                "target; they were stored for other data, delete them to compute them again"
            )
        self._ref_logps = ref_logps
        bad = np.concatenate([[0], np.cumsum(~np.isfinite(ref_logps))])[self.target_offsets]
        self._has_ref = bad[1:] == bad[:-1]  # bool [rows]

    # ---- batches

    def _largest(self) -> tuple[int, int]:
        """The most tokens and the most targets of a sequence in training and in :meth:`one_pass`."""
        if self.packing == 1:
            return int(self.data.index.lengths.max()), int(self.data.index.targets.max())
        different = max(self.steps_per_epoch, self.total_steps if self.schedule.shuffle else 0)
        batches = [*range(different), None]
        sizes = np.asarray([self.packer.sizes(self._dealt(step)).max(0) for step in batches])
        log.info(
            "%s: sequences of %d rows: %.0f tokens on average; half of the batches need %d tokens and %d targets, 9 of "
            "10 need %d and %d, the largest %d and %d", self.source.name, self.packing,
            self.packing * self.data.index.lengths.mean(), *np.quantile(sizes, [0.5, 0.9, 1], axis=0).ravel(),
        )  # fmt: skip
        return int(sizes[:, 0].max()), int(sizes[:, 1].max())

    def _check_buckets(self, given: Buckets) -> Buckets:
        """The config's buckets if they hold every batch; where there are none, one that does."""
        if given and self.packing == 1:
            return given  # no row is longer: the chat truncates it
        tokens, targets = self._largest()
        if not given:
            return ((round_up(tokens, TOKEN_STEP), round_up(targets, TARGET_STEP)),)
        if tokens > given[-1][0] or targets > given[-1][1]:
            raise UserError(
                f"data.buckets: {self.packing} rows in a sequence need up to {tokens} tokens and {targets} targets, "
                f"the largest bucket is {given[-1]}; add a larger one, or make data.packing smaller"
            )
        return given

    def _dealt(self, step: int | None) -> np.ndarray:
        """Rows [batch_size] of a training batch, in sequences; None: those that the first epoch leaves out."""
        if step is not None:
            return self.packer.deal(self.schedule.batch(step))
        left = self.schedule.left_out()
        return self.packer.deal(np.pad(left, (0, self.batch_size - len(left)), constant_values=-1))

    def composition(self, step: int) -> tuple[np.ndarray, int]:
        """Rows [batch_size] of training batch number ``step`` over all processes, in sequences, and its bucket's index.

        No row is read.
        """
        rows = self._dealt(step)
        return rows, self._bucket_of(rows)

    def _bucket_of(self, rows: np.ndarray) -> int:
        """Number of the smallest bucket that holds every sequence of dealt rows."""
        tokens, targets = self.packer.sizes(rows).T
        bucket = int(assign(tokens, targets, self.buckets).max())
        if bucket == len(self.buckets):
            raise UserError(
                f"data.packing: {self.packing} consecutive rows of the data need {tokens.max()} tokens and "
                f"{targets.max()} targets, the largest bucket is {self.buckets[-1]}"
            )
        return bucket

    def _load_part(self, rows: np.ndarray) -> Batch:
        """This process's part of a global batch of dealt rows."""
        return self.load(rows[self._part], self._bucket_of(rows))

    def load(self, rows: np.ndarray, bucket: int) -> Batch:
        """This process's batch of the given rows [b*k], each k = ``packing`` in one sequence of the bucket.

        -1 is a masked row; a row whose image is bad becomes one.
        """
        index = np.array(rows)
        if self._ref_logps is not None:
            index = np.where(self._has_ref[index], index, -1)
        encoded, images, index = self.data.read(index)
        values = {}
        if self._ref_logps is not None:
            ends = self.target_offsets
            values["ref_logps"] = [self._ref_logps[ends[row] : ends[row + 1]] if row >= 0 else None for row in index]
        return self.processor.batch(
            encoded, images, self.buckets[bucket], index, packing=self.packing, target_values=values
        )

    def batch_at(self, step: int) -> Batch:
        """This process's rows of training batch number ``step``."""
        return self._load_part(self._dealt(step))

    def __len__(self) -> int:
        return self.total_steps

    def check_trainable(self) -> None:
        """Raises UserError where there is not a single full batch: training would end at once without an error."""
        if not self.steps_per_epoch:
            everywhere = " in every length bucket" if len(self.buckets) > 1 else ""
            raise UserError(
                f"{self.source.name} has {counted(self.rows, 'usable row')}, fewer than "
                f"data.batch_size={self.batch_size}"
                f"{everywhere}; make the batch smaller"
            )

    def __iter__(self) -> LoaderIterator[Batch]:
        self.check_trainable()
        return LoaderIterator(self.total_steps, self.batch_at, self._prefetch, self.fingerprint())

    def ordered(self) -> Iterator[Batch]:
        """All usable rows once, in order, in batches of ``batch_size``; the last one is filled with masked rows.

        For evaluation. Packed rows of a batch are in the order of its sequences, and consecutive rows may be too long
        together (UserError).
        """
        count = math.ceil(self.rows / self.batch_size)
        return read_ahead(count, self._ordered_batch, self._prefetch)

    def _ordered_batch(self, number: int) -> Batch:
        rows = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
        rows = np.where(rows < self.rows, rows, -1)
        return self._load_part(self.packer.deal(rows))

    def one_pass(self, start: int = 0) -> Iterator[Batch]:
        """All usable rows once, in the batches of the first epoch; then those it leaves out, with masked rows.

        ``start``: batches to skip, because an earlier pass had them.
        """
        steps = [*range(self.steps_per_epoch), *([None] if self.rows % self.batch_size else [])]
        steps = steps[start:]
        return read_ahead(len(steps), lambda number: self._load_part(self._dealt(steps[number])), self._prefetch)

    def fingerprint(self) -> str:
        """Changes whenever the sequence of batches does."""
        schedule = self.schedule
        settings = [self.rows, self.batch_size, schedule.seed, schedule.shuffle, self.packing, self.buckets, self.kind]
        return self.data.index.fingerprint(settings)


def _given_buckets(kind: Kind, cfg: Any) -> Buckets:
    """The config's buckets; none: to be made from the data."""
    if kind == "contrastive":
        return ((cfg.model.text.max_length, 0),)
    return tuple((int(n), 0 if kind == "prompt" else int(t)) for n, t in cfg.data.buckets)


def _only_bucket(kind: Kind, cfg: Any) -> tuple[int, int]:
    """The shape of all sequences, where no row is measured. ``config.validate`` has seen that there is one."""
    (bucket,) = _given_buckets(kind, cfg)
    return bucket
