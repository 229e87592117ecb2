"""Batches for training and evaluation: an index of the rows, a plan of batches, and grain to read ahead.

1. Every row is tokenised once (:mod:`index`): bad rows are set aside, the rest get a bucket.
2. The plan (:mod:`plan`) says which rows stand in batch number i, from the seed alone.
3. grain runs over the batch numbers: random access, threads, read-ahead, and an iterator whose state is one number.
   So a restored run sees exactly the batches that the killed one had not seen, on any number of processes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data.ahead import Batch, LoaderIterator, read_ahead
from pivot_jax.data.batch import EncodedRow, Example
from pivot_jax.data.chat import Chat, Kind
from pivot_jax.data.collate import contrastive_batch, prompt_batch, vlm_batch
from pivot_jax.data.images import patches
from pivot_jax.data.index import Index, RowStore, read_index
from pivot_jax.data.pictures import MIB, Pictures
from pivot_jax.data.plan import Buckets, Plan, assign, local_slice
from pivot_jax.data.skips import SkipLog
from pivot_jax.data.sources import Source, read_all
from pivot_jax.errors import UserError

log = logging.getLogger(__name__)
KINDS: dict[str, Kind] = {"contrastive": "contrastive", "sft": "sft", "preference": "preference"}  # stage → kind
TOKEN_STEP, TARGET_STEP = 16, 8  # a bucket made from the data is rounded up to these


def build_loader(
    cfg: Any,
    tokenizer: Any,
    *,
    kind: Kind | None = None,
    process_index: int = 0,
    process_count: int = 1,
    image_tokens: int | None = None,
    ref_logps: np.ndarray | None = None,
    workdir: str | Path | None = None,
    sources: Sequence[Mapping[str, Any]] | Source | None = None,
    batch_size: int | None = None,
) -> Loader:
    """The loader that a config describes.

    Args:
      cfg: a run's config; read are ``data``, ``tokenizer``, ``stage``, ``seed``, ``train.epochs``, ``train.steps``,
        ``model.text.max_length`` (contrastive) and, without ``image_tokens``, ``model.vision.patch_size``.
      tokenizer: a ``transformers`` tokenizer.
      kind: ``sft`` | ``preference`` | ``contrastive`` | ``prompt``; default: what the stage trains on.
      process_index, process_count: which part of every batch is loaded here.
      image_tokens: features per image.
      ref_logps: float32 [rows, 2], see :meth:`Loader.set_ref_logps`.
      workdir: where ``skipped.jsonl`` and the index of a large data set are written; None writes nothing.
      sources: in place of ``data.sources``: config entries, or a source.
      batch_size: in place of ``data.batch_size`` (evaluation).

    Raises:
      UserError: no usable source, too many bad rows, fewer rows than a batch, or a batch that does not divide.
    """
    kind = KINDS[cfg.stage] if kind is None else kind
    source = sources if hasattr(sources, "fingerprint") else read_all(cfg.data.sources if sources is None else sources)
    if image_tokens is None:
        image_tokens = patches(cfg.data.image.size, cfg.model.vision.patch_size)
    loader = Loader(
        cfg,
        source,  # type: ignore[arg-type]
        _chat(cfg, tokenizer, kind, image_tokens),
        kind,
        process=(process_index, process_count),
        workdir=None if workdir is None else Path(workdir),
        batch_size=cfg.data.batch_size if batch_size is None else batch_size,
    )
    if ref_logps is not None:
        loader.set_ref_logps(ref_logps)
    return loader


def _chat(cfg: Any, tokenizer: Any, kind: Kind, image_tokens: int) -> Chat:
    data, words = cfg.data, cfg.tokenizer
    longest, most = tuple(data.buckets[-1]) if data.buckets else (data.max_length, 0)
    if kind == "contrastive":
        longest, most = cfg.model.text.max_length, 0
    return Chat(
        tokenizer,
        image_tokens=image_tokens,
        template=data.template,
        system=words.system,
        loss_mask=data.loss_mask,
        image_token=words.image_token,
        max_length=min(longest, data.max_length),
        max_targets=most,
        max_images=data.images_per_row,
    )


class Loader:
    """Batches of one data set. Iterate for training, :meth:`ordered` for one pass over all rows in order.

    Attributes:
      rows: usable rows. ``row_index`` in a batch counts them, -1 is a masked row.
      buckets: static shapes (n tokens, t targets) that batches can have.
      steps_per_epoch, total_steps: full batches in an epoch (the rest is dropped, another one each epoch) and in
        training (``train.steps``, or ``train.epochs`` rounded up to whole steps).
      skipped: :class:`SkipLog` of the bad rows.
      chat: encodes and decodes text.
    """

    def __init__(
        self,
        cfg: Any,
        source: Source,
        chat: Chat,
        kind: Kind,
        *,
        process: tuple[int, int] = (0, 1),
        workdir: Path | None = None,
        batch_size: int,
    ):
        self.source, self.chat, self.kind = source, chat, kind
        self.batch_size, self._slice = batch_size, local_slice(batch_size, *process)
        self._prefetch = cfg.data.prefetch
        name = "skipped.jsonl" if process[0] == 0 else f"skipped-{process[0]}.jsonl"
        path = None if workdir is None else workdir / name
        self.skipped = SkipLog(path, len(source), cfg.data.max_bad_share, source.name)
        self._index, self._store = self._read_rows(cfg, workdir)
        self.rows = len(self._index)
        self.buckets = _buckets(cfg.data.buckets, self._index, kind, cfg)
        bucket_of = assign(self._index.lengths, self._index.targets, self.buckets)
        self.plan = Plan(bucket_of, batch_size, cfg.seed, cfg.data.shuffle)
        self._pictures = Pictures(
            self.rows, cfg.data.images_per_row, cfg.data.image.preset, cfg.data.image.size, cfg.data.workers,
            cfg.data.cache_images_mib,
        )  # fmt: skip
        self.steps_per_epoch = self.plan.steps_per_epoch
        wanted = cfg.train.steps or math.ceil(cfg.train.epochs * self.steps_per_epoch - 1e-9)
        self.total_steps = wanted if self.steps_per_epoch else 0
        self.ref_logps: np.ndarray | None = None

    # ---- rows

    def _read_rows(self, cfg: Any, workdir: Path | None) -> tuple[Index, RowStore]:
        chat, data = self.chat, cfg.data
        settings = {
            "kind": self.kind,
            "data": [data.template, data.loss_mask, data.images_per_row, data.check_images],
            "tokenizer": cfg.tokenizer.to_dict(),
            "limits": [chat.max_length, chat.max_targets, chat.image_tokens],
        }
        index, store = read_index(
            self.source, lambda example: chat.encode(example, self.kind), settings, chat.tokenizer,
            data.check_images, data.cache_rows_mib * MIB, workdir,
        )  # fmt: skip
        self.skipped.add_all(index.bad)
        log.info(
            "%s: %d usable rows, %d bad, %d cut to length", self.source.name, len(index), len(index.bad), index.cut
        )
        if not len(index):
            raise UserError(f"{self.source.name}: none of its {len(self.source)} rows is usable")
        return index, store

    def example(self, row: int) -> Example:
        """The example behind a usable row: its text, image references and extra fields."""
        return self.source[int(self._index.source_rows[row])]

    def row_id(self, row: int) -> str:
        kept = self._store.get(row)
        return self.example(row).id if kept is None else kept.id

    def encoded(self, row: int) -> EncodedRow:
        """Tokens of a usable row; image references may be left out (they are in :meth:`example`)."""
        found = self._store.get(row)
        if found is None:
            found = self.chat.encode(self.example(row), self.kind)
            self._store.keep(row, found)
        return found

    def _references(self, row: int) -> tuple[str, tuple[Any, ...]]:
        kept = self._store.get(row)
        if kept is not None and kept.images:
            return kept.id, kept.images
        example = self.example(row)
        return example.id, example.images

    def set_ref_logps(self, ref_logps: np.ndarray) -> None:
        """Stored reference log-probs of chosen and rejected, float32 [rows, 2], to be put into every batch.

        A row whose values are not finite (its picture could not be read then) is masked.
        """
        ref_logps = np.asarray(ref_logps, np.float32)
        if ref_logps.shape != (self.rows, 2):
            raise UserError(
                f"reference log-probs have shape {ref_logps.shape}, the data set needs {(self.rows, 2)}; "
                "they were stored for other data, delete them to compute them again"
            )
        self.ref_logps = ref_logps

    # ---- batches

    def load(self, rows: np.ndarray, bucket: int) -> Batch:
        """This process's batch of the given rows [b]; -1 is a masked row. A row whose picture is bad becomes one."""
        index = np.array(rows)
        if self.ref_logps is not None:
            index = np.where(np.isfinite(self.ref_logps[index]).all(1), index, -1)
        images, errors = self._pictures.batch(index, self._references)
        for place, error in enumerate(errors):
            if error is not None:
                self.skipped.add(int(self._index.source_rows[index[place]]), error)
                index[place] = -1
        encoded = [self.encoded(int(row)) if row >= 0 else None for row in index]
        n, t = self.buckets[bucket]
        pad = self.chat.pad_id
        if self.kind == "contrastive":
            return contrastive_batch(encoded, images, index, n, pad)
        if self.kind == "prompt":
            return prompt_batch(encoded, images, index, n, pad)
        ref = None
        if self.ref_logps is not None:
            ref = np.where(index[:, None] >= 0, self.ref_logps[index], 0).astype(np.float32)
        return vlm_batch(encoded, images, index, (n, t), pad, ref)

    def batch_at(self, step: int) -> Batch:
        """This process's rows of training batch number ``step``."""
        rows, bucket = self.plan.batch(step)
        return self.load(rows[self._slice], bucket)

    def __len__(self) -> int:
        return self.total_steps

    def check_trainable(self) -> None:
        """Raises UserError where there is not a single full batch: training would end at once, and well."""
        if not self.steps_per_epoch:
            everywhere = " in every length bucket" if len(self.buckets) > 1 else ""
            raise UserError(
                f"{self.source.name} has {self.rows} usable rows, fewer than data.batch_size={self.batch_size}"
                f"{everywhere}; make the batch smaller"
            )

    def __iter__(self) -> LoaderIterator:
        self.check_trainable()
        return LoaderIterator(self.total_steps, self.batch_at, self._prefetch, self.fingerprint())

    def ordered(self) -> Iterator[Batch]:
        """All usable rows once, in order, in batches of ``batch_size``; the last one is filled with masked rows."""
        count = -(-self.rows // self.batch_size)
        return read_ahead(count, self._ordered_batch, self._prefetch)

    def _ordered_batch(self, number: int) -> Batch:
        rows = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
        rows = np.where(rows < self.rows, rows, -1)
        bucket = int(self.plan.bucket_of[rows[rows >= 0]].max())
        return self.load(rows[self._slice], bucket)

    def fingerprint(self) -> str:
        """Changes whenever the sequence of batches does."""
        plan = [self.rows, self.batch_size, self.plan.seed, self.plan.shuffle, self.buckets, self.kind]
        digest = hashlib.sha256(json.dumps(plan).encode())
        for part in (self._index.source_rows, self._index.lengths, self._index.targets):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]


def _buckets(given: Any, index: Index, kind: Kind, cfg: Any) -> Buckets:
    """The config's buckets, or one that holds the longest row."""
    if kind == "contrastive":
        return ((cfg.model.text.max_length, 0),)
    if given:
        return tuple((int(n), 0 if kind == "prompt" else int(t)) for n, t in given)
    n = -(-int(index.lengths.max()) // TOKEN_STEP) * TOKEN_STEP
    t = -(-int(index.targets.max()) // TARGET_STEP) * TARGET_STEP
    return ((n, t),)
