"""Step IV, policy update: the batches of the optimizer steps that follow a rollout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pivot_jax.rl.parts import Parts
from pivot_jax.rl.trajectory import (
    Trajectory,
    batch_of,
    common_bucket,
    len_of_update,
    response_rows,
    rows_per_group,
)


def minibatches(parts: Parts, trajectory: Trajectory, rollout: int, done: int = 0) -> Iterator[Any]:
    """This process's batches of the optimizer steps, from number ``done`` on: ``rl.epochs`` passes over all groups.

    Consecutive groups, as many as there are minibatches, go to one minibatch each, in an order that seed, rollout and
    pass select. So the minibatches do not depend on the number of processes, and each process has as many rows of each.
    """
    count, each = parts.setup.config.rl.minibatches, rows_per_group(parts)
    rows: list[Any] = list(response_rows(parts, trajectory.groups))
    size = common_bucket(rows)
    if parts.features is not None:
        parts.features.encode(rows)  # now: an optimizer step donates the encoder's parameters
    values: dict[str, list[Any]] = {name: _by_row(parts, own) for name, own in trajectory.values.items()}
    numbers = [group.number for group in trajectory.groups for _ in range(each)]
    missing = parts.prompts * each - len(rows)
    rows, numbers = [*rows, *[None] * missing], [*numbers, *[-1] * missing]
    values = {name: [*own, *[None] * missing] for name, own in values.items()}
    for update in range(done, parts.updates):
        groups = _members(parts, rollout, update // count, update % count)
        index = (groups[:, None] * each + np.arange(each)).ravel()
        assert len(index) == len_of_update(parts)
        chosen = {name: [own[i] for i in index] for name, own in values.items()}
        yield batch_of(parts, [rows[i] for i in index], size, chosen, [numbers[i] for i in index])


def _members(parts: Parts, rollout: int, epoch: int, minibatch: int) -> np.ndarray:
    """This process's groups of a minibatch, in order."""
    config = parts.setup.config
    count = config.rl.minibatches
    if count == 1:
        return np.arange(parts.prompts)
    first = parts.first_prompt // count  # blocks of the processes before this one
    found = []
    for block in range(parts.prompts // count):
        random = np.random.default_rng([config.seed, rollout, epoch, first + block])
        found.append(block * count + random.permutation(count)[minibatch])
    return np.asarray(found)


def _by_row(parts: Parts, values: Any) -> list[np.ndarray]:
    """Values of each response → of each row."""
    n, per_row = parts.setup.config.rl.responses, parts.per_row
    found = []
    for group in range(0, len(values), n):
        own = values[group : group + n]
        found += [np.concatenate(own[start : start + per_row]) for start in range(0, n, per_row)]
    return found
