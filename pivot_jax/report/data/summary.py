"""The data in numbers: what the page's top, its JSON and its warnings say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pivot_jax.data.loading.loader import Loader
from pivot_jax.data.loading.schedule import Buckets
from pivot_jax.report.data import padding
from pivot_jax.report.data.fields import Read, read_columns
from pivot_jax.report.data.identity import conflicts, groups, sharing
from pivot_jax.report.data.padding import Epoch, Packing
from pivot_jax.report.data.reading import Reading

QUANTILES = (0.5, 0.9, 0.99)
BETTER = 0.05  # share of the positions that suggested buckets have to save
Groups = Sequence[np.ndarray]  # of row numbers


@dataclass(frozen=True)
class Lengths:
    """Mean, quantiles (:data:`QUANTILES`), largest and sum of a number of the rows."""

    mean: float
    quantiles: tuple[int, ...]
    largest: int
    total: int


@dataclass(frozen=True)
class Duplicates:
    """Groups of usable rows, each of two or more.

    Attributes:
      rows: the same texts and images. prompts: the same prompt and images, but not the same answers.
      images: an image in common. alike: number of pairs whose answers differ in white space or letter case only.
    """

    rows: Groups
    prompts: Groups
    images: Groups
    alike: int

    @property
    def surplus(self) -> int:
        """Rows that repeat an earlier one."""
        return sum(len(group) - 1 for group in self.rows)


@dataclass(frozen=True)
class Summary:
    """All numbers of a reading.

    Attributes:
      lengths: by what is counted: tokens, scored tokens, image tokens, images.
      epoch: the first one, with the config's packing; None where training forms other batches (online RL), or could not
        start. unpacked: with packing 1. packings: what others would do.
      suggested: buckets that would pad less, and their epoch; None where none would.
      slots: share of the image slots, or of the places for patches in them, that hold something; None without images.
      columns: what the rewards of online RL read. values: column → rows that have a value there.
    """

    lengths: dict[str, Lengths]
    epoch: Epoch | None
    unpacked: Epoch | None
    packings: tuple[Packing, ...]
    suggested: Packing | None
    duplicates: Duplicates
    slots: float | None
    columns: tuple[Read, ...]
    values: dict[str, int]
    stops: str


def lengths(values: np.ndarray) -> Lengths:
    """Of whole numbers [rows], one or more; a quantile is a value that occurs."""
    found = np.quantile(values, QUANTILES, method="inverted_cdf")
    return Lengths(float(values.mean()), tuple(map(int, found)), int(values.max()), int(values.sum()))


def by_file(reading: Reading) -> dict[str, tuple[int, int, int]]:
    """File → usable rows, bad rows, tokens."""
    good, bad = Counter(reading.table.files), Counter(row.file for row in reading.bad)
    tokens: Counter[str] = Counter()
    for file, count in zip(reading.table.files, reading.table.tokens.tolist(), strict=True):
        tokens[file] += count
    return {file: (good[file], bad[file], tokens[file]) for file in dict.fromkeys([*good, *bad])}


def summarize(reading: Reading) -> Summary:
    """All numbers of a reading. Loaders of other packings and buckets are made from the same rows."""
    table, loader, config = reading.table, reading.batched, reading.config
    packings: tuple[Packing, ...] = ()
    suggested, epoch, stops = None, None, reading.stops
    unpacked = None if loader is None else padding.epoch_of(loader)
    if loader is not None and reading.kind != "contrastive":
        packings = tuple(padding.packings(config, reading.rows))
        current = next(one for one in packings if one.packing == config.data.packing)
        epoch, stops = current.epoch, stops or current.reason
        suggested = _suggested(reading, loader, epoch)
    elif loader is not None:
        epoch = unpacked
    counted = {"tokens": table.tokens, "scored tokens": table.targets, "image tokens": table.image_tokens}
    counted |= {"images": table.images}
    rl = reading.kind == "prompt"
    return Summary(
        lengths={name: lengths(values) for name, values in counted.items()},
        epoch=epoch,
        unpacked=unpacked,
        packings=packings,
        suggested=suggested,
        duplicates=Duplicates(
            groups(table.row_keys),
            conflicts(table.prompt_keys, table.answer_keys),
            sharing(table.image_keys, table.image_rows),
            sum(one == "nearly" for one in table.alike),
        ),
        slots=_slots(reading),
        columns=tuple(read_columns(config)) if rl else (),
        values=dict(reading.rows.index.columns),
        stops=stops,
    )


def _suggested(reading: Reading, loader: Loader, epoch: Epoch | None) -> Packing | None:
    """Buckets that compute fewer positions than the config's, where there are such."""
    config, table = reading.config, reading.table
    buckets: Buckets = padding.suggested(table.tokens, table.targets)
    if epoch is None or config.data.packing > 1 or not epoch.positions or len(buckets) < 2:
        return None
    found = padding.packed(config, reading.rows, 1, buckets)
    if found.epoch is None or found.epoch.positions > (1 - BETTER) * epoch.positions:
        return None
    return found


def _slots(reading: Reading) -> float | None:
    table, processor = reading.table, reading.processor
    slots = processor.chat.limits.images * len(table)
    if not slots or not table.images.sum():
        return None
    if processor.geometry.arrays > 1:  # tiles: tokens do not count them
        return float(table.images.sum() / slots)
    if reading.kind == "contrastive":  # no image tokens
        return 1.0
    return float(table.image_tokens.sum() / (slots * processor.geometry.features))
