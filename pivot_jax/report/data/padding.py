"""How much of an epoch's arrays is padding, in each bucket and with rows packed: from the batches of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pivot_jax import config as configs
from pivot_jax.data.loading import loader as loading
from pivot_jax.data.loading.loader import TARGET_STEP, TOKEN_STEP, Loader
from pivot_jax.data.loading.rows import Rows
from pivot_jax.data.loading.schedule import Buckets, assign, local_slice
from pivot_jax.errors import UserError
from pivot_jax.progress import progress
from pivot_jax.shapes import round_up

PACKINGS = (1, 2, 4, 8)
SHARES = (0.5, 0.85, 1.0)  # of the rows, which suggested buckets hold
SHOW_FROM = 100_000  # rows; a progress bar for less would only flicker


@dataclass(frozen=True)
class BucketUse:
    """One bucket in the first epoch, over all processes.

    Attributes:
      tokens, targets: its size. needing: rows of the data set that no smaller one holds.
      batches, sequences, rows: that train in it.
      used_tokens, used_targets: of its sequences' positions and targets, those that are no padding.
    """

    tokens: int
    targets: int
    needing: int
    batches: int
    sequences: int
    rows: int
    used_tokens: int
    used_targets: int

    @property
    def positions(self) -> int:
        return self.sequences * self.tokens

    @property
    def target_positions(self) -> int:
        return self.sequences * self.targets


@dataclass(frozen=True)
class Epoch:
    """The first epoch of a loader; a share is 0 where nothing is computed."""

    uses: tuple[BucketUse, ...]

    @property
    def positions(self) -> int:
        return sum(use.positions for use in self.uses)

    @property
    def used_tokens(self) -> int:
        return sum(use.used_tokens for use in self.uses)

    @property
    def padding(self) -> float:
        """Share of the token positions."""
        return padding(self.used_tokens, self.positions)

    @property
    def target_padding(self) -> float:
        """Share of the positions of scored targets."""
        used = sum(use.used_targets for use in self.uses)
        return padding(used, sum(use.target_positions for use in self.uses))


@dataclass(frozen=True)
class Packing:
    """What ``data.packing`` does with some buckets; ``reason`` says why training would not start with it."""

    packing: int
    buckets: Buckets
    from_data: bool  # data.buckets=(): one bucket, as large as the longest sequence
    epoch: Epoch | None = None
    reason: str = ""


def padding(used: int, positions: int) -> float:
    return 1 - used / positions if positions else 0.0


def epoch_of(loader: Loader) -> Epoch:
    """What the batches of the first epoch hold."""
    buckets = loader.buckets
    totals = np.zeros((len(buckets), 5), np.int64)
    for step in range(loader.steps_per_epoch):
        rows, bucket = loader.composition(step)
        sizes = loader.packer.sizes(rows)
        totals[bucket] += (1, len(sizes), int((rows >= 0).sum()), *sizes.sum(0))
    need = assign(loader.packer.lengths, loader.packer.targets, buckets)
    needing = np.bincount(need, minlength=len(buckets))
    return Epoch(tuple(BucketUse(*buckets[i], int(needing[i]), *map(int, totals[i])) for i in range(len(buckets))))


def packed(config: Any, rows: Rows, packing: int, buckets: Buckets | None = None) -> Packing:
    """The first epoch with another packing, and perhaps other buckets ((): made from the data)."""
    changes: dict[str, Any] = {} if buckets is None else {"data.buckets": buckets}
    changed = configs.with_keys(config, changes, ("data.",))
    given = tuple(map(tuple, changed.data.buckets))
    size = changed.data.batch_size
    try:
        with _quiet():
            loader = Loader(changed, rows, size, packing, local_slice(size, 0, 1, packing))
        return Packing(packing, loader.buckets, not given, epoch_of(loader))
    except UserError as error:
        return Packing(packing, given, not given, reason=str(error))


def packings(config: Any, rows: Rows, counts: Sequence[int] = PACKINGS) -> list[Packing]:
    """Each packing with the config's buckets, and with one that is made from the data."""
    choices: list[Buckets | None] = [None, ()] if config.data.buckets else [None]
    counts = sorted({*counts, config.data.packing})
    out = []
    with progress("packing", len(counts) * len(choices), show=len(rows) >= SHOW_FROM) as advance:
        for packing in counts:
            for buckets in choices:
                out.append(packed(config, rows, packing, buckets))
                advance()
    return out


def suggested(lengths: np.ndarray, targets: np.ndarray) -> Buckets:
    """Up to three buckets that hold half, most and all of the rows, in the steps of buckets made from the data."""
    out: dict[int, int] = {}
    for size in np.quantile(lengths, SHARES, method="inverted_cdf"):
        tokens = round_up(int(size), TOKEN_STEP)
        most = int(targets[lengths <= tokens].max())
        out[tokens] = max([round_up(most, TARGET_STEP), *out.values()])
    return tuple(out.items())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the loader's lines on what its sequences need: here many loaders are made to be compared."""
    before, loading.log.disabled = loading.log.disabled, True
    try:
        yield
    finally:
        loading.log.disabled = before
