"""Which rows are in which batch: a pure function of (seed, epoch), the same on every process.

A batch has one of a few static shapes, the buckets. So rows that need a large bucket share batches. Unpacked, these are
batches of their own, the last of which is filled up with shorter rows; packed, there is one such row per sequence, next
to rows that need the smallest bucket. An epoch has exactly floor(rows / batch) batches, whatever the buckets.
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


def local_slice(
    batch_size: int, process_index: int, process_count: int, packing: int = 1, key: str = "data.batch_size"
) -> slice:
    """The part of a global batch that a process loads. ``key`` is where the config sets ``batch_size``.

    Raises:
      UserError: the batch cannot be split evenly, or not into sequences of ``packing`` rows.
    """
    if batch_size % process_count:
        raise UserError(
            f"{key}: {batch_size} rows cannot be split evenly over {process_count} processes; "
            f"use a multiple of {process_count}"
        )
    share = batch_size // process_count
    if share % packing:
        raise UserError(
            f"data.packing: {packing} does not divide the {share} rows of a process (data.batch_size={batch_size} over "
            f"{process_count}); change either"
        )
    return slice(process_index * share, (process_index + 1) * share)


@dataclass(frozen=True, eq=False)  # compared by identity: the epoch cache is keyed by it
class Schedule:
    """The batches of a training run.

    ``bucket_of``: the bucket that each row needs, int32 [rows]. ``packing``: rows of a sequence.
    """

    bucket_of: np.ndarray
    batch_size: int
    seed: int
    shuffle: bool
    packing: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return len(self.bucket_of) // self.batch_size

    def batch(self, step: int) -> np.ndarray:
        """Row indices [batch_size] of the global batch at ``step`` (counted over all epochs)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        # Without shuffling all epochs are the same one.
        return _epoch_batches(self, epoch if self.shuffle else 0)[within]

    def left_out(self) -> np.ndarray:
        """Row indices that the first epoch drops, fewer than a batch."""
        return np.setdiff1d(np.arange(len(self.bucket_of)), _epoch_batches(self, 0))


@functools.lru_cache(maxsize=4)
def _epoch_batches(schedule: Schedule, epoch: int) -> np.ndarray:
    """All batches of an epoch: rows [steps, batch_size]."""
    rng = np.random.default_rng([schedule.seed, epoch])
    size, steps = len(schedule.bucket_of), schedule.steps_per_epoch
    order = rng.permutation(size) if schedule.shuffle else np.arange(size)
    # Rows are dropped before the buckets are formed; else a rarely used large bucket would be dropped in every epoch.
    order = order[: steps * schedule.batch_size]
    batches = _in_buckets(schedule, order) if schedule.bucket_of.any() else order.reshape(steps, schedule.batch_size)
    order_of_batches = rng.permutation(steps) if schedule.shuffle else np.argsort(batches[:, 0], kind="stable")
    return batches[order_of_batches]


def _in_buckets(schedule: Schedule, order: np.ndarray) -> np.ndarray:
    """Rows [steps, batch_size] in the order given, but for those that need a large bucket, which share batches."""
    steps = schedule.steps_per_epoch
    order = order[np.argsort(-schedule.bucket_of[order], kind="stable")]  # those of the largest bucket first
    large = int(np.sum(schedule.bucket_of[order] > 0))
    each = max(schedule.batch_size // schedule.packing, -(-large // max(steps, 1)))  # one large row per sequence
    batch_of_large = np.arange(large) // each
    free = schedule.batch_size - np.bincount(batch_of_large, minlength=steps)
    batch_of = np.concatenate([batch_of_large, np.repeat(np.arange(steps), free)])
    return order[np.argsort(batch_of, kind="stable")].reshape(steps, schedule.batch_size)
