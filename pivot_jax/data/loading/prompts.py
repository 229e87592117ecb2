"""Prompts for online RL: rows instead of arrays, because an engine answers them before anything is collated.

The seed and a rollout's number alone say which prompts it has: those of a data set in the order of :mod:`schedule`,
those of a source without an end one after the other. So the state of the iterator is one number, on any number of
processes. Images are not read here.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.loading.prefetch import LoaderIterator, read_ahead
from pivot_jax.data.loading.rows import Rows, read_rows
from pivot_jax.data.loading.schedule import Schedule, local_slice
from pivot_jax.data.loading.skipped import SkipLog
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.sources import Endless, Source, open_source
from pivot_jax.data.sources.prompts import prompts
from pivot_jax.errors import RowError, UserError
from pivot_jax.words import counted


@dataclass(frozen=True)
class PromptRows:
    """This process's prompts of one rollout, in order.

    Attributes:
      examples: their text and images, which are references; ``extra`` has the columns for the rewards.
      rows: the same tokenised, images among them.
      numbers: int64 [b]; identify the prompts in the data, the same in every epoch.
      epoch: passes over the data before this one; 0 for a source without an end.
    """

    examples: list[Example]
    rows: list[EncodedRow]
    numbers: np.ndarray
    epoch: int

    def __len__(self) -> int:
        return len(self.examples)


class Fresh:
    """Prompts of a source without an end, by number; each one is made and tokenised when it is needed."""

    def __init__(self, source: Endless, processor: Processor):
        self.source, self.processor = source, processor
        self.skipped = SkipLog(None, 0, 1.0, source.name)  # none is skipped

    def row_id(self, number: int) -> str:
        return self.source[number].id

    def example(self, number: int) -> Example:
        """As :meth:`Rows.example`."""
        return self.source[number]

    def prompt(self, number: int) -> tuple[Example, EncodedRow]:
        """As :meth:`Rows.prompt`.

        Raises:
          UserError: it cannot be tokenised, such as for its length. No other row could take its position.
        """
        example = self.source[number]
        try:
            return example, self.processor.encode(example)
        except RowError as error:
            raise UserError(
                f"{self.source.name}: {error}; it cannot be skipped, because such a source makes every prompt: change "
                "the source or the limit"
            ) from None


def build_prompts(
    cfg: Any,
    processor: Processor,
    *,
    process: tuple[int, int] = (0, 1),
    workdir: str | Path | None = None,
    sources: Sequence[Mapping[str, Any]] | Source | None = None,
    batch_size: int | None = None,
) -> PromptLoader:
    """The prompts of a config's rollouts. Reads the data: every prompt is tokenised once, if there is an end to them.

    Args:
      cfg: a run's config; read are ``data``, ``tokenizer``, ``seed``, ``train`` and ``rl``.
      processor: of any kind; prompts are encoded with :meth:`Processor.for_kind`.
      process: (index, count); which part of every rollout is loaded here.
      workdir: where ``skipped.jsonl`` is written; None writes none.
      sources: in place of ``data.sources``: config entries, or a source.
      batch_size: in place of ``data.batch_size`` (evaluation).

    Raises:
      UserError: no usable source, too many bad rows (such as prompts that are too long), fewer prompts than a rollout
        takes, a number of them that does not divide, or an evaluation or epochs of a source without an end.
    """
    size, key = (cfg.data.batch_size, "data.batch_size") if batch_size is None else (batch_size, "batch_size")
    part = local_slice(size, *process, key=key)
    source, processor = prompts(open_source(cfg, sources)), processor.for_kind("prompt")
    if isinstance(source, Endless):
        if batch_size is not None:
            raise _no_end(source)
        if not cfg.train.steps:
            raise UserError(f"train.steps: 0, but {source.name} has no end to count train.epochs by; set train.steps")
        return PromptLoader(cfg, Fresh(source, processor), size, part)
    folder = None if workdir is None else Path(workdir)
    loader = PromptLoader(cfg, read_rows(cfg, source, processor, workdir=folder, process=process[0]), size, part)
    if batch_size is None:
        loader.check_trainable()
    return loader


def _no_end(source: Endless) -> UserError:
    return UserError(f"{source.name}: has no end; add 'sampling': 'first:N' to evaluate on N prompts")


class PromptLoader:
    """Prompts of rollouts. Iterate for training: the iterator has no end. :meth:`ordered` yields every prompt once.

    Args:
      part: slice of a rollout's prompts that is loaded here.

    Attributes:
      data: the prompts by number.
      batch_size: prompts of a rollout, over all processes.
      rows: usable rows; 0: the source has no end.
      packing: 1, as of ``Loader``.
      skipped: :class:`SkipLog` of the bad rows.
      steps_per_epoch: optimizer steps in an epoch, of full rollouts (the rest is dropped, another one each epoch); 0:
        there are no epochs.
      total_steps: optimizer steps of training (``train.steps``, or ``train.epochs`` rounded up to whole rollouts).
    """

    def __init__(self, cfg: Any, data: Rows | Fresh, batch_size: int, part: slice):
        self.data, self.batch_size, self._part = data, batch_size, part
        self._prefetch = cfg.data.prefetch
        self.rows = len(data) if isinstance(data, Rows) else 0
        self.schedule = Schedule(np.zeros(self.rows, np.int32), batch_size, cfg.seed, cfg.data.shuffle)
        self.processor, self.packing, self.skipped = data.processor, 1, data.skipped
        updates = cfg.rl.epochs * cfg.rl.minibatches
        rollouts = math.ceil(cfg.train.epochs * self.schedule.steps_per_epoch - 1e-9)
        self.steps_per_epoch = self.schedule.steps_per_epoch * updates
        self.total_steps = cfg.train.steps or rollouts * updates

    def check_trainable(self) -> None:
        """Raises UserError where there is not a single full rollout."""
        if self.rows and not self.schedule.steps_per_epoch:
            raise UserError(
                f"data.batch_size: {self.batch_size} prompts of {self.data.source.name}, which has "
                f"{counted(self.rows, 'usable row')}; make it smaller"
            )

    def columns(self) -> dict[str, int]:
        """Names of the extra fields that prompts have, and how many have a value there (0: unknown, without an end)."""
        if isinstance(self.data, Rows):
            return dict(self.data.index.columns)
        return dict.fromkeys(self.data.source.columns, 0)

    def rows_at(self, step: int) -> PromptRows:
        """This process's prompts of rollout number ``step``, from 0."""
        if not self.rows:
            numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
            return self._load(numbers, 0)
        return self._load(self.schedule.batch(step).astype(np.int64), step // self.schedule.steps_per_epoch)

    def _load(self, numbers: np.ndarray, epoch: int) -> PromptRows:
        own = numbers[self._part]
        found = [self.data.prompt(int(number)) for number in own]
        return PromptRows([example for example, _ in found], [row for _, row in found], own, epoch)

    def __iter__(self) -> LoaderIterator[PromptRows]:
        """Rollout after rollout, read ahead; ``get_state`` and ``set_state`` as for training batches."""
        self.check_trainable()
        return LoaderIterator(sys.maxsize, self.rows_at, self._prefetch, self.fingerprint())

    def ordered(self, start: int = 0) -> Iterator[PromptRows]:
        """All usable prompts once, in order, for evaluation; a process's part of the last batch may be empty.

        Args:
          start: batches to leave out.

        Raises:
          UserError: there is no end.
        """
        if not isinstance(self.data, Rows):
            raise _no_end(self.data.source)

        def load(batch: int) -> PromptRows:
            first = (start + batch) * self.batch_size
            return self._load(np.arange(first, min(first + self.batch_size, self.rows), dtype=np.int64), 0)

        count = math.ceil(self.rows / self.batch_size) - start
        return read_ahead(count, load, self._prefetch) if count > 0 else iter(())

    def fingerprint(self) -> str:
        """Changes whenever the sequence of prompts does."""
        if isinstance(self.data, Rows):
            schedule = self.schedule
            settings = ["prompts", self.rows, self.batch_size, schedule.seed, schedule.shuffle]
            return self.data.index.fingerprint(settings)
        content = json.dumps(["prompts", self.batch_size, self.data.source.fingerprint])
        return hashlib.sha256(content.encode()).hexdigest()[:16]
