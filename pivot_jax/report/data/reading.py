"""A config's data as training reads them: the same processor, index and schedule, and a table of the rows' numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pivot_jax import config as configs
from pivot_jax.data import sources
from pivot_jax.data.example import Example
from pivot_jax.data.loading.index import SHOW_FROM
from pivot_jax.data.loading.loader import Loader, build_loader
from pivot_jax.data.loading.prompts import PromptLoader, build_prompts
from pivot_jax.data.loading.rows import Rows
from pivot_jax.data.processing.batch import CHOSEN, REJECTED, EncodedRow
from pivot_jax.data.processing.chat import Kind
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.sources import Endless, choose, open_source
from pivot_jax.data.sources.base import origin
from pivot_jax.errors import RowError, UserError
from pivot_jax.progress import progress
from pivot_jax.report.data.identity import ImageKeys, alike, text_keys, with_images
from pivot_jax.train.model import build_model, processor_of, row_kind
from pivot_jax.train.source import config_tokenizer

OF_ENDLESS = 1_000  # prompts that are looked at of a source without an end
MEASURED = 2_000  # truncated rows whose whole length is found, at most
LONGEST = 1 << 16  # tokens of a row that is measured whole


@dataclass(frozen=True)
class BadRow:
    """A row that training leaves out: its file, its number there from 0, its id, and why."""

    file: str
    number: int
    id: str
    reason: str


@dataclass(frozen=True)
class RowTable:
    """Numbers of the usable rows, arrays [rows] unless said otherwise.

    Attributes:
      ids: row ids. files, numbers: where each comes from, and its row there, from 0.
      tokens, targets: of the encoded row. whole_tokens, whole_targets: before truncation, as far as it was measured.
      images, image_tokens: how many it has. chosen, rejected: scored tokens of the answers of a pair.
      truncated: bool. alike: "" | "nearly" | "same", of the answers of a pair.
      row_keys, prompt_keys, answer_keys: uint64, equal where the contents are, see :mod:`.identity`.
      image_keys, image_rows: [images]; of every image of the data, and the row that has it.
    """

    ids: list[str]
    files: list[str]
    numbers: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray
    whole_tokens: np.ndarray
    whole_targets: np.ndarray
    images: np.ndarray
    image_tokens: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    truncated: np.ndarray
    alike: list[str]
    row_keys: np.ndarray
    prompt_keys: np.ndarray
    answer_keys: np.ndarray
    image_keys: np.ndarray
    image_rows: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Reading:
    """What there is to see of a config's data.

    Attributes:
      loader: a Loader of unpacked batches, or the PromptLoader of online RL.
      rows: the usable rows, and table: their numbers.
      bad: the others. equal_pairs: those of them whose chosen and rejected answers are the same text.
      stops: why training would not start, or "".
      endless: the source has no end, and only its first rows were read.
    """

    config: Any
    kind: Kind
    processor: Processor
    loader: Loader | PromptLoader
    rows: Rows
    table: RowTable
    bad: tuple[BadRow, ...]
    equal_pairs: int
    stops: str
    endless: bool

    @property
    def batched(self) -> Loader | None:
        """The loader, where its batches are trained with as they are."""
        return self.loader if isinstance(self.loader, Loader) else None


def read(config: Any) -> Reading:
    """Reads a training config's data. No parameter is created and nothing is compiled.

    Raises:
      UserError: anything in the config that does not fit together, or no usable row. Too many bad rows, or too few for
        a batch, are no error here: :attr:`Reading.stops` says what training would.
    """
    for entry in config.data.sources:
        sources.check(entry)
    tokenizer = config_tokenizer(config.tokenizer)
    module, kind = build_model(config, len(tokenizer)).module, row_kind(config)
    processor = processor_of(config, module, tokenizer, kind)
    source = open_source(config)
    endless = kind == "prompt" and isinstance(source, Endless)
    if endless:
        source = choose.sample(source, f"first:{OF_ENDLESS}")
    tolerant = configs.with_keys(config, {"data.max_bad_share": 1.0}, ("data.",))
    build: Any = build_prompts if kind == "prompt" else build_loader
    loader = build(tolerant, processor, sources=source, batch_size=config.data.batch_size)
    rows = loader.data
    bad, equal_pairs = _bad(rows)
    whole = processor_of(config, module, tokenizer, kind, max_length=LONGEST)
    return Reading(
        config=config,
        kind=kind,
        processor=rows.processor,
        loader=loader,
        rows=rows,
        table=_table(rows, whole, config.data.check_images),
        bad=bad,
        equal_pairs=equal_pairs,
        stops=_stops(config, loader, len(rows.source)),
        endless=endless,
    )


def _stops(config: Any, loader: Any, total: int) -> str:
    """Why training would not start with these rows."""
    share, limit = loader.skipped.count / max(total, 1), config.data.max_bad_share
    if share > limit:
        return f"{100 * share:.1f} % of the rows are bad, more than data.max_bad_share={limit:g} allows"
    try:
        loader.check_trainable()
    except UserError as error:
        return str(error)
    return ""


def _bad(rows: Rows) -> tuple[tuple[BadRow, ...], int]:
    """The bad rows, and how many of them are pairs of equal answers."""
    found, equal = [], 0
    for position, row_id, reason in rows.index.bad:
        found.append(BadRow(*origin(rows.source, position), row_id, reason))
        try:
            example = rows.source[position]
        except RowError:
            continue
        both = example.chosen is not None and example.rejected is not None
        equal += both and alike(str(example.chosen), str(example.rejected)) == "same"
    return tuple(found), equal


def _table(rows: Rows, whole: Processor, compare_files: bool) -> RowTable:
    """Args: whole: the processor without the limits. compare_files: files may be read to find equal images."""
    size = len(rows)
    columns = {name: np.zeros(size, np.int32) for name in ("tokens", "targets", "images", "image_tokens")}
    columns |= {name: np.zeros(size, np.int32) for name in ("chosen", "rejected", "whole_tokens", "whole_targets")}
    ids, files, likeness, image_keys = [], [], [], list[int]()
    numbers, truncated = np.zeros(size, np.int64), np.zeros(size, bool)
    texts, keys, measured = np.zeros((size, 3), np.uint64), ImageKeys(), 0
    with progress("looking at rows", size, show=size >= SHOW_FROM) as advance:
        for number, (example, row) in enumerate(rows.each()):
            advance()
            file, numbers[number] = origin(rows.source, int(rows.index.source_rows[number]))
            ids.append(example.id)
            files.append(file)
            for name, value in _sizes(row, len(example.images)).items():
                columns[name][number] = value
            truncated[number] = row.truncated
            if row.truncated and measured < MEASURED:
                measured += 1
                row = _measured(row, whole, example)
            columns["whole_tokens"][number], columns["whole_targets"][number] = len(row.tokens), len(row.targets)
            both = example.chosen is not None and example.rejected is not None
            likeness.append(alike(str(example.chosen), str(example.rejected)) if both else "")
            texts[number] = text_keys(example)
            image_keys += map(keys.key, example.images)
    own = np.asarray(image_keys, np.uint64)
    own = keys.by_content(own) if compare_files else own
    image_rows = np.repeat(np.arange(size), columns["images"])
    row_keys, prompts = (with_images(texts[:, i], own, image_rows) for i in (0, 1))
    return RowTable(
        ids, files, numbers, **columns, truncated=truncated, alike=likeness, row_keys=row_keys, prompt_keys=prompts,
        answer_keys=texts[:, 2], image_keys=own, image_rows=image_rows,
    )  # fmt: skip


def _sizes(row: EncodedRow, images: int) -> dict[str, int]:
    return {
        "tokens": len(row.tokens),
        "targets": len(row.targets),
        "images": images,
        "image_tokens": int((row.image_slots >= 0).sum()),
        "chosen": int((row.target_branches == CHOSEN).sum()),
        "rejected": int((row.target_branches == REJECTED).sum()),
    }


def _measured(row: EncodedRow, whole: Processor, example: Example) -> EncodedRow:
    """The row without the limits; as it is where that is an error."""
    try:
        return whole.encode(example)
    except RowError:
        return row
