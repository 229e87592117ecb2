"""Which rows stand in which batch: a pure function of (seed, epoch), the same on every process.

All rows of a batch share one bucket, so that a batch has one of a few static shapes. What does not fill a batch of its
bucket moves up to the next larger one; so an epoch has exactly floor(rows / batch) batches, whatever the buckets.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from pivot_jax.errors import UserError

Buckets = tuple[tuple[int, int], ...]


def assign(lengths: np.ndarray, targets: np.ndarray, buckets: Buckets) -> np.ndarray:
    """Index of the first bucket that holds each row, int32 [rows]; ``len(buckets)`` where none does."""
    fits = np.stack([(lengths <= n) & (targets <= t) for n, t in buckets])
    return np.where(fits.any(0), fits.argmax(0), len(buckets)).astype(np.int32)


def local_slice(batch_size: int, process_index: int, process_count: int) -> slice:
    """The part of a global batch that a process loads.

    Raises:
      UserError: the batch cannot be split evenly.
    """
    if batch_size % process_count:
        raise UserError(
            f"data.batch_size: {batch_size} rows cannot be split evenly over {process_count} processes; "
            f"use a multiple of {process_count}"
        )
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


@dataclass(frozen=True, eq=False)  # compared by identity: the epoch cache is keyed by it
class Plan:
    """Batches of a training run. ``bucket_of``: bucket of each row, int32 [rows]."""

    bucket_of: np.ndarray
    batch_size: int
    seed: int
    shuffle: bool

    @property
    def steps_per_epoch(self) -> int:
        return len(self.bucket_of) // self.batch_size

    def batch(self, step: int) -> tuple[np.ndarray, int]:
        """Row indices [batch_size] and bucket of the global batch at ``step`` (counted over all epochs)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        rows, buckets = self._epoch(epoch)
        return rows[within], int(buckets[within])

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        # Without shuffling all epochs are the same one.
        return _epoch_batches(self, epoch if self.shuffle else 0)


@functools.lru_cache(maxsize=4)
def _epoch_batches(plan: Plan, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """All batches of an epoch: rows [steps, batch_size], buckets [steps]."""
    rng = np.random.default_rng([plan.seed, epoch])
    size = len(plan.bucket_of)
    order = rng.permutation(size) if plan.shuffle else np.arange(size)
    # What is dropped is chosen before the buckets, or a rarely used large bucket would be dropped in every epoch.
    order = order[: plan.steps_per_epoch * plan.batch_size]
    bucket_of = plan.bucket_of[order]
    rows: list[np.ndarray] = []
    buckets: list[int] = []
    left = np.zeros(0, np.int64)
    for bucket in range(int(bucket_of.max(initial=0)) + 1):
        here = np.concatenate([left, order[bucket_of == bucket]])
        count = len(here) // plan.batch_size
        rows.append(here[: count * plan.batch_size].reshape(count, plan.batch_size))
        buckets += [bucket] * count
        left = here[count * plan.batch_size :]
    batches, which = np.concatenate(rows), np.asarray(buckets, np.int32)
    places = rng.permutation(len(batches)) if plan.shuffle else np.argsort(batches[:, 0], kind="stable")
    return batches[places], which[places]
