"""A prompt with its sampled responses and their rewards, and which of them a policy update takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.rollout.engine import Response


@dataclass(frozen=True)
class Group:
    """A prompt and its n responses.

    Attributes:
      number: of the prompt in the data.
      example, row: the prompt; its images are references.
      responses: n of them.
      version: of the weights that sampled them: the number of optimizer steps.
      total: float64 [n], the rewards that train; NaN: none, such a response has no part in the update.
      rewards: float64 [n] by the rewards' labels.
    """

    number: int
    example: Example
    row: EncodedRow
    responses: tuple[Response, ...]
    version: int
    total: np.ndarray
    rewards: Mapping[str, np.ndarray]


class Selection(NamedTuple):
    """Groups that were sampled together, and for each whether the algorithm's filter keeps it."""

    groups: Sequence[Group]
    kept: np.ndarray


class Collected:
    """The groups of the next policy update. What is kept beyond its size is the surplus, for the update after it.

    Args:
      size: groups of an update in this process.
      surplus: of the update before.
    """

    def __init__(self, size: int, surplus: Iterable[Group] = ()):
        self.size = size
        self._groups = deque(surplus)
        self.sampled, self.dropped = 0, 0

    @property
    def missing(self) -> int:
        return max(0, self.size - len(self._groups))

    def add(self, selection: Selection) -> None:
        """Adds the groups that are kept."""
        self.sampled += len(selection.groups)
        self.dropped += len(selection.groups) - int(np.sum(selection.kept))
        self._groups += [group for group, kept in zip(selection.groups, selection.kept, strict=True) if kept]

    def take(self) -> tuple[list[Group], list[Group]]:
        """(groups of the update, fewer than ``size`` where too few were kept; the surplus)."""
        groups = list(self._groups)
        return groups[: self.size], groups[self.size :]
