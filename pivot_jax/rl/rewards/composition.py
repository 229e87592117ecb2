"""The rewards of a config: scores of completions, their weighted total, and what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from pivot_jax.errors import UserError, suggest
from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.function import Reward, read_rewards
from pivot_jax.rl.rewards.pool import Pool


class Failure(NamedTuple):
    """A completion without a score. ``kind``: timeout | memory | error | nan | count."""

    row_id: str
    reward: str
    kind: str
    message: str


@dataclass(frozen=True)
class Scores:
    """Scores of n completions.

    Attributes:
      rewards: float64 [n] by the rewards' labels, before weighting. NaN where a reward does not apply (it returned
        None), or failed and failures are skipped.
      total: float64 [n], the weighted sum. NaN where no reward with a weight applies, or one of them failed and
        failures are skipped: such a completion has no part in its group's baseline, and no advantage.
      failures: in the order of rewards and completions.
      counts: number of failures by "label/kind".
    """

    rewards: Mapping[str, np.ndarray]
    total: np.ndarray
    failures: tuple[Failure, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Penalty:
    """MAYE's rule that replaces the total of a bad completion, whatever its rewards are.

    Attributes:
      truncated: a completion without an end token is bad.
      min_tokens: one with fewer tokens is bad, the end token counted; 0: none is.
      score: the total of a bad completion.
    """

    truncated: bool = False
    min_tokens: int = 0
    score: float = -0.1


class Rewards:
    """Scores completions with several rewards, in processes of their own. Close it, or use it in a ``with``.

    Args:
      failure: the score of a completion whose reward fails. ``zero``: 0. ``skip``: none. ``stop``: raise an error.
    """

    def __init__(
        self, rewards: Sequence[Reward], pool: Pool, failure: Literal["zero", "skip", "stop"], penalty: Penalty
    ):
        self.rewards, self.failure, self.penalty, self._pool = tuple(rewards), failure, penalty, pool

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the rewards, in their order."""
        return tuple(reward.label for reward in self.rewards)

    @property
    def weights(self) -> np.ndarray:
        """Of the rewards: float64 [rewards]."""
        return np.array([reward.weight for reward in self.rewards], np.float64)

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes."""
        self._pool.close()

    def check(self, columns: Iterable[str]) -> None:
        """Rejects a reward that cannot be computed for any row.

        Args:
          columns: all names of columns that rows have.

        Raises:
          UserError: names the reward, the column and the columns that there are.
        """
        known = sorted(set(columns))
        for reward, reads in zip(self.rewards, self._pool.columns, strict=True):
            for name in reads.required:
                if name not in known:
                    fix = "set its option 'column' to one of them" if reward.built_in else "rename the argument"
                    raise UserError(
                        f"rl.rewards: '{reward.label}' reads the column '{name}', which no row has"
                        f"{suggest(name, known)} (columns: {', '.join(known) or 'none'}); {fix}"
                    )

    def score(self, items: Sequence[Completion]) -> Scores:
        """Scores of completions, in their order.

        Raises:
          UserError: a reward failed, and ``failure`` is ``stop``.
        """
        values, problems = self._pool.score(items)
        failures = tuple(
            Failure(items[at].row_id, self.rewards[index].label, *problem)
            for (index, at), problem in sorted(problems.items())
        )
        if failures and self.failure == "stop":
            row, label, kind, message = failures[0]
            raise UserError(
                f"row '{row}': reward '{label}' failed ({kind}): {message}; rl.reward_failure is 'stop'; with 'zero' "
                "or 'skip' the run continues"
            )
        failed = np.zeros(values.shape, bool)
        failed[tuple(np.array(sorted(problems), int).reshape(-1, 2).T)] = True
        if self.failure == "zero":
            values = np.where(failed, 0.0, values)
        total = weighted(values, self.weights, failed & np.isnan(values))
        bad = penalised(
            np.array([item.truncated for item in items], bool),
            np.array([len(item.tokens) for item in items], int),
            self.penalty,
        )
        return Scores(
            rewards={reward.label: row for reward, row in zip(self.rewards, values, strict=True)},
            total=np.where(bad, self.penalty.score, total),
            failures=failures,
            counts=Counter(f"{failure.reward}/{failure.kind}" for failure in failures),
        )


def weighted(values: np.ndarray, weights: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Weighted sum of the rewards that apply (TRL's nansum); NaN where none does.

    Args:
      values: [rewards, n], NaN where a reward does not apply.
      weights: [rewards]; those with weight 0 do not count at all.
      excluded: [rewards, n], true where a reward with a weight makes the total NaN.

    Returns:
      float64 [n].
    """
    used = weights != 0
    values, excluded = values[used], excluded[used]
    total = np.nansum(weights[used, None] * values, axis=0)
    return np.where(np.isnan(values).all(axis=0) | excluded.any(axis=0), np.nan, total)


def penalised(truncated: np.ndarray, lengths: np.ndarray, penalty: Penalty) -> np.ndarray:
    """Which completions :class:`Penalty` applies to (MAYE's ``get_reward_penalty_mask``): bool [n]."""
    return (truncated & penalty.truncated) | (lengths < penalty.min_tokens)


def build_rewards(section: Any) -> Rewards:
    """The rewards of a config's section ``rl``, with their processes started.

    Raises:
      UserError: an unknown reward or option, or a user's function that cannot be loaded.
    """
    rewards = read_rewards(section.rewards, section.reward_timeout_s)
    penalty = Penalty(section.penalty_truncated, section.penalty_min_tokens, section.penalty_score)
    return Rewards(
        rewards, Pool(rewards, section.reward_workers, section.reward_memory_mib), section.reward_failure, penalty
    )
