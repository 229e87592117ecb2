"""The order of an epoch is a uniform shuffle of all rows, and that of the next one is independent of it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.shuffle import scores
from pivot_jax.data.loading.schedule import Schedule

ROWS, BATCH = 64_000, 64


def epochs(bucket_of: np.ndarray, seed: int) -> list[np.ndarray]:
    """Batches of the first two epochs: rows [steps, b] each."""
    plan = Schedule(bucket_of, BATCH, seed, shuffle=True)
    steps = plan.steps_per_epoch
    return [np.stack([plan.batch(step) for step in range(epoch * steps, (epoch + 1) * steps)]) for epoch in (0, 1)]


def buffered(rows: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """The order of a shuffle buffer, as of streams: the next row takes the position of a random one of ``size``."""
    buffer, order = list(range(size)), []
    for row in range(size, rows):
        which = rng.integers(size)
        order.append(buffer[which])
        buffer[which] = row
    return np.asarray([*order, *rng.permutation(buffer)])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_epoch_is_a_uniform_shuffle(seed):
    """Seeds are fixed, so this never fails by chance; a uniform shuffle has |z| < 4 in all but one case in 16,000."""
    found = scores(*epochs(np.zeros(ROWS, np.int32), seed))
    assert all(abs(z) < 4 for z in found.values()), found


def test_rows_of_two_buckets_are_shuffled_too():
    """Batches have one bucket; which rows share one, and when, is random still. Long rows are spread over the data."""
    bucket_of = (np.arange(ROWS) % 4 == 0).astype(np.int32)
    found = scores(*epochs(bucket_of, 0))
    assert abs(found["displacement"]) < 4 and abs(found["second epoch"]) < 4, found


@pytest.mark.parametrize("order", ["file", "buffer", "shards", "same epochs"])
def test_the_scores_tell_a_worse_shuffle(order):
    """What the scores are for: each of these has at least one beyond 4, and a buffer's displacement is far beyond."""
    rng = np.random.default_rng(0)
    orders = {
        "file": np.arange(ROWS),
        "buffer": buffered(ROWS, 1_000, rng),  # the size that datasets takes where none is given
        "shards": np.concatenate([rng.permutation(1_000) + shard * 1_000 for shard in range(ROWS // 1_000)]),
        "same epochs": rng.permutation(ROWS),
    }
    first = orders[order].reshape(-1, BATCH)
    found = scores(first, first if order == "same epochs" else rng.permutation(ROWS).reshape(-1, BATCH))
    worse = {"same epochs": "second epoch"}.get(order, "displacement")
    assert abs(found[worse]) > 100, found
    assert order == "same epochs" or found["neighbours in a batch"] > 4, found
