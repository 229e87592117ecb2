"""Batches for training and evaluation: an index of the rows, a plan of batches, and grain to read ahead.

1. Every row is tokenised once (:mod:`index`): bad rows are set aside, the others measured.
2. The plan (:mod:`plan`) says which rows stand in batch number i, from the seed alone; of these, :mod:`pack` says which
   share a sequence.
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

from pivot_jax.data.example import Example
from pivot_jax.data.loading.image_cache import MIB, Arrays, PictureReader, Pictures, cutter_of
from pivot_jax.data.loading.index import Index, RowStore, read_index
from pivot_jax.data.loading.packing import Packer
from pivot_jax.data.loading.prefetch import Batch, LoaderIterator, read_ahead
from pivot_jax.data.loading.schedule import Buckets, Plan, assign, local_slice
from pivot_jax.data.loading.skipped import SkipLog
from pivot_jax.data.loading.workers import Job, RowReader, Workers
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.chat import Chat, Kind, chat_of
from pivot_jax.data.processing.collate import contrastive_batch, prompt_batch, vlm_batch
from pivot_jax.data.processing.images import load, patches
from pivot_jax.data.processing.patches import Cutter
from pivot_jax.data.sources import Source, read_all
from pivot_jax.errors import RowError, UserError

log = logging.getLogger(__name__)
TOKEN_STEP, TARGET_STEP = 16, 8  # a bucket made from the data is rounded up to these


def build_loader(
    cfg: Any,
    tokenizer: Any,
    *,
    kind: Kind,
    process_index: int = 0,
    process_count: int = 1,
    image_tokens: int | None = None,
    patch_size: int | None = None,
    mrope: bool | None = None,
    ref_logps: np.ndarray | None = None,
    workdir: str | Path | None = None,
    sources: Sequence[Mapping[str, Any]] | Source | None = None,
    batch_size: int | None = None,
) -> Loader:
    """The loader that a config describes.

    Args:
      cfg: a run's config; read are ``data``, ``tokenizer``, ``seed``, ``train.epochs``, ``train.steps``,
        ``model.text.max_length`` (contrastive) and, where ``patch_size`` or ``mrope`` is not given,
        ``model.vision.patch_size`` and ``model.decoder.mrope_section``.
      tokenizer: a ``transformers`` tokenizer.
      kind: ``sft`` | ``preference`` | ``contrastive`` | ``prompt``: how rows are encoded, and the batches.
      process_index, process_count: which part of every batch is loaded here.
      image_tokens: features per image; where a preset cuts pictures of any size into patches, it says itself.
      patch_size: pixels of the encoder's patches. mrope: whether the decoder takes positions of three axes.
      ref_logps: float32 [targets of all rows], see :meth:`Loader.set_ref_logps`.
      workdir: where ``skipped.jsonl`` and the index of a large data set are written; None writes nothing.
      sources: in place of ``data.sources``: config entries, or a source.
      batch_size: in place of ``data.batch_size`` (evaluation); rows are then not packed.

    Raises:
      UserError: no usable source, too many bad rows, fewer rows than a batch, or a batch that does not divide.
    """
    source = sources if hasattr(sources, "fingerprint") else read_all(cfg.data.sources if sources is None else sources)
    patch_size = cfg.model.vision.patch_size if patch_size is None else patch_size
    mrope = bool(cfg.model.decoder.mrope_section) if mrope is None else mrope
    cutter = cutter_of(cfg.data.image, patch_size)
    if isinstance(cutter, Cutter):
        image_tokens = cutter.tokens
    elif image_tokens is None:
        image_tokens = patches(cfg.data.image.size, patch_size)
    loader = Loader(
        cfg,
        source,  # type: ignore[arg-type]
        chat_of(cfg, tokenizer, kind, image_tokens, cutter, mrope),
        kind,
        process=(process_index, process_count),
        workdir=None if workdir is None else Path(workdir),
        batch_size=cfg.data.batch_size if batch_size is None else batch_size,
        pack=cfg.data.pack if batch_size is None and kind in ("sft", "preference") else 1,
    )
    if ref_logps is not None:
        loader.set_ref_logps(ref_logps)
    return loader


class Loader:
    """Batches of one data set. Iterate for training; :meth:`ordered` and :meth:`one_pass` give every row once.

    Attributes:
      rows: usable rows. ``row_index`` in a batch counts them, -1 is a masked row.
      pack: rows that share a sequence.
      target_offsets: int64 [rows + 1]; where the scored targets of each row begin in an array of all of them.
      buckets: static shapes (n tokens, t targets) of a sequence that batches can have.
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
        pack: int = 1,
    ):
        self.source, self.chat, self.kind = source, chat, kind
        self.batch_size, self.pack, self._slice = batch_size, pack, local_slice(batch_size, *process, pack)
        self._prefetch = cfg.data.prefetch
        name = "skipped.jsonl" if process[0] == 0 else f"skipped-{process[0]}.jsonl"
        path = None if workdir is None else workdir / name
        self.skipped = SkipLog(path, len(source), cfg.data.max_bad_share, source.name)
        pictures = PictureReader(cfg.data.images_per_row, cfg.data.image.preset, cfg.data.image.size, chat.cutter)
        reader = RowReader(chat, kind, pictures, cfg.data.check_images)
        self._workers = Workers(reader, cfg.data.workers, cfg.data.worker_kind)
        self._index, self._store = self._read_rows(cfg, workdir)
        self.rows = len(self._index)
        self.target_offsets = np.concatenate([[0], np.cumsum(self._index.targets, dtype=np.int64)])
        self.packer = Packer(self._index.lengths, self._index.targets, pack)
        given = _given_buckets(kind, cfg)
        bucket_of = self.packer.groups(given) if given else np.zeros(self.rows, np.int32)
        self.plan = Plan(bucket_of, batch_size, cfg.seed, cfg.data.shuffle, pack)
        self._pictures = Pictures(pictures, self.rows, cfg.data.cache_images_mib)
        self.steps_per_epoch = self.plan.steps_per_epoch
        wanted = cfg.train.steps or math.ceil(cfg.train.epochs * self.steps_per_epoch - 1e-9)
        self.total_steps = wanted if self.steps_per_epoch else 0
        self.buckets = self._check_buckets(given)
        self.ref_logps: np.ndarray | None = None

    # ---- rows

    def _read_rows(self, cfg: Any, workdir: Path | None) -> tuple[Index, RowStore]:
        chat, data = self.chat, cfg.data
        settings = {
            "kind": self.kind,
            "data": [data.template, data.loss_mask, data.images_per_row, data.check_images],
            "tokenizer": cfg.tokenizer.to_dict(),
            "limits": [chat.max_length, chat.max_targets, chat.image_tokens],
            "pictures": [chat.cutter, chat.mrope],
        }
        index, store = read_index(self.source, self._workers, settings, data.cache_rows_mib * MIB, workdir)
        self.skipped.forget(self._mended(index))
        self.skipped.add_all(index.bad)
        log.info(
            "%s: %d usable rows, %d bad, %d cut to length", self.source.name, len(index), len(index.bad), index.cut
        )
        if not len(index):
            last = f"; the last is row '{index.bad[-1][1]}': {index.bad[-1][2]}" if index.bad else ""
            raise UserError(f"{self.source.name}: none of its {len(self.source)} rows is usable{last}")
        return index, store

    def _mended(self, index: Index) -> set[int]:
        """Rows (of the source) that an earlier run listed as bad and that are good now, their pictures too."""

        def good(place: int) -> bool:
            try:
                for image in self.source[place].images if place < len(self.source) else ():
                    load(image)
            except UserError:
                return False
            return True

        bad = {place for place, _, _ in index.bad}
        return {place for place in self.skipped.entries if place not in bad and good(place)}

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

    def _read(self, rows: list[int], fresh: dict[int, EncodedRow]) -> Iterator[Arrays | RowError]:
        """Pictures of the rows, or what is wrong with one; rows that had to be tokenised as well go into ``fresh``."""
        for row, done in zip(rows, self._workers.finish(map(self._job, rows)), strict=True):
            if done.row is not None:
                self._store.keep(row, done.row)
                fresh[row] = done.row
            yield done.pictures

    def _job(self, row: int) -> Job:
        kept = self._store.get(row)
        if kept is not None and kept.images:
            return Job(kept.id, kept.images, None)
        example = self.example(row)
        return Job(example.id, example.images, example if kept is None else None)

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
        self.ref_logps = ref_logps
        bad = np.concatenate([[0], np.cumsum(~np.isfinite(ref_logps))])[self.target_offsets]
        self._has_ref = bad[1:] == bad[:-1]  # bool [rows]

    # ---- batches

    def _largest(self) -> tuple[int, int]:
        """The most tokens and the most targets of a sequence in training and in :meth:`one_pass`."""
        if self.pack == 1:
            return int(self._index.lengths.max()), int(self._index.targets.max())
        different = max(self.steps_per_epoch, self.total_steps if self.plan.shuffle else 0)
        batches = [*range(different), None]
        sizes = np.asarray([self.packer.sizes(self._dealt(step)).max(0) for step in batches])
        log.info(
            "%s: sequences of %d rows: %.0f tokens on average; half of the batches need %d tokens and %d targets, 9 of "
            "10 need %d and %d, the largest %d and %d", self.source.name, self.pack,
            self.pack * self._index.lengths.mean(), *np.quantile(sizes, [0.5, 0.9, 1], axis=0).ravel(),
        )  # fmt: skip
        return int(sizes[:, 0].max()), int(sizes[:, 1].max())

    def _check_buckets(self, given: Buckets) -> Buckets:
        """The config's buckets if they hold every batch, or without any one that does."""
        if given and self.pack == 1:
            return given  # no row is longer: the chat cuts it
        tokens, targets = self._largest()
        if not given:
            return ((_round_up(tokens, TOKEN_STEP), _round_up(targets, TARGET_STEP)),)
        if tokens > given[-1][0] or targets > given[-1][1]:
            raise UserError(
                f"data.buckets: {self.pack} rows of this data in a sequence need up to {tokens} tokens and {targets} "
                f"targets, the largest bucket is {given[-1]}; add a larger one, or make data.pack smaller"
            )
        return given

    def _dealt(self, step: int | None) -> np.ndarray:
        """Rows [batch_size] of a training batch, in sequences; None: those that the first epoch leaves out."""
        if step is not None:
            return self.packer.deal(self.plan.batch(step))
        left = self.plan.left_out()
        return self.packer.deal(np.pad(left, (0, self.batch_size - len(left)), constant_values=-1))

    def _load_part(self, rows: np.ndarray) -> Batch:
        """This process's part of a global batch of dealt rows, in the smallest bucket that holds all of it."""
        tokens, targets = self.packer.sizes(rows).T
        bucket = int(assign(tokens, targets, self.buckets).max())
        if bucket == len(self.buckets):
            raise UserError(
                f"data.pack: {self.pack} rows that follow each other in the data need {tokens.max()} tokens and "
                f"{targets.max()} targets, the largest bucket is {self.buckets[-1]}"
            )
        return self.load(rows[self._slice], bucket)

    def load(self, rows: np.ndarray, bucket: int) -> Batch:
        """This process's batch of the given rows [b*k], each k = ``pack`` in one sequence of the bucket.

        -1 is a masked row; a row whose picture is bad becomes one.
        """
        index = np.array(rows)
        if self.ref_logps is not None:
            index = np.where(self._has_ref[index], index, -1)
        fresh: dict[int, EncodedRow] = {}
        (images, places), errors = self._pictures.batch(index, lambda rows: self._read(rows, fresh))
        for place, error in enumerate(errors):
            if error is not None:
                self.skipped.add(int(self._index.source_rows[index[place]]), error)
                index[place] = -1
        encoded = [(fresh.get(int(row)) or self.encoded(int(row))) if row >= 0 else None for row in index]
        if places is not None:
            self._mask_changed(index, encoded, places)
        n, t = self.buckets[bucket]
        pad = self.chat.pad_id
        if self.kind == "contrastive":
            return contrastive_batch(encoded, images, index, n, pad)
        if self.kind == "prompt":
            return prompt_batch(encoded, images, index, n, pad, patch_places=places, mrope=self.chat.mrope)
        values = {}
        if self.ref_logps is not None:
            ends = self.target_offsets
            values["ref_logps"] = [self.ref_logps[ends[row] : ends[row + 1]] if row >= 0 else None for row in index]
        return vlm_batch(
            encoded, images, index, (n, t), pad, values, pack=self.pack, image_tokens=self.chat.image_tokens,
            patch_places=places, mrope=self.chat.mrope,
        )  # fmt: skip

    def _mask_changed(self, index: np.ndarray, rows: list[EncodedRow | None], places: np.ndarray) -> None:
        """Masks rows whose tokens were counted for pictures of another size than these are; places [b, m, p, 2]."""
        for place, row in enumerate(rows):
            if row is not None and not self.chat.fits(row, places[place]):
                error = RowError(row.id, "a picture has another size than when its row was tokenised")
                self.skipped.add(int(self._index.source_rows[index[place]]), error)
                rows[place], index[place] = None, -1

    def batch_at(self, step: int) -> Batch:
        """This process's rows of training batch number ``step``."""
        return self._load_part(self._dealt(step))

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
        """All usable rows once, in order, in batches of ``batch_size``; the last one is filled with masked rows.

        Made for evaluation. Packed, the rows of a batch stand in the order of its sequences, and rows that follow each
        other may be too long together (UserError).
        """
        count = -(-self.rows // self.batch_size)
        return read_ahead(count, self._ordered_batch, self._prefetch)

    def _ordered_batch(self, number: int) -> Batch:
        rows = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
        rows = np.where(rows < self.rows, rows, -1)
        return self._load_part(self.packer.deal(rows))

    def one_pass(self, start: int = 0) -> Iterator[Batch]:
        """All usable rows once, in the batches of the first epoch; then those it leaves out, with masked rows.

        ``start``: how many batches to leave out, because an earlier pass had them.
        """
        steps = [*range(self.steps_per_epoch), *([None] if self.rows % self.batch_size else [])]
        steps = steps[start:]
        return read_ahead(len(steps), lambda number: self._load_part(self._dealt(steps[number])), self._prefetch)

    def fingerprint(self) -> str:
        """Changes whenever the sequence of batches does."""
        plan = [self.rows, self.batch_size, self.plan.seed, self.plan.shuffle, self.pack, self.buckets, self.kind]
        digest = hashlib.sha256(json.dumps(plan).encode())
        for part in (self._index.source_rows, self._index.lengths, self._index.targets):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]


def _given_buckets(kind: Kind, cfg: Any) -> Buckets:
    """The config's buckets; none: to be made from the data."""
    if kind == "contrastive":
        return ((cfg.model.text.max_length, 0),)
    return tuple((int(n), 0 if kind == "prompt" else int(t)) for n, t in cfg.data.buckets)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
