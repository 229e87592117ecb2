"""Which groups of responses are trained with, and how the rewards of a rollout are described. On the host."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pivot_jax.objectives.advantages import Scores
from pivot_jax.objectives.algorithm import Algorithm

Array = np.ndarray


def every(rewards: Array, algorithm: Algorithm) -> bool:
    """Every group."""
    return True


def varied(rewards: Array, algorithm: Algorithm) -> bool:
    """A group whose rewards are not all equal: the others have no gradient, and only dilute means over tokens."""
    return len(rewards) > 1 and bool(np.ptp(rewards))


def mean_inside(rewards: Array, algorithm: Algorithm) -> bool:
    """A group with a mean reward strictly between ``filter_low`` and ``filter_high``.

    DAPO's dynamic sampling (Yu et al. 2025, eq. 11), where the reward is the accuracy and the bounds are 0 and 1;
    EasyR1 has 0.01 and 0.99.
    """
    return len(rewards) > 0 and algorithm.filter_low < float(rewards.mean()) < algorithm.filter_high


# f(rewards of a group that are not NaN, algorithm) → whether the group is kept.
FILTERS: dict[str, Callable[[Array, Algorithm], bool]] = {"none": every, "varied": varied, "mean_inside": mean_inside}


def kept(algorithm: Algorithm, rewards: Array, groups: Array) -> Array:
    """Which responses ``algorithm.filter`` keeps: bool [N]; a group is kept or dropped as a whole.

    Args:
      rewards: float [N] that the filter reads, such as the accuracy alone; NaN where there is none.
      groups: int [N].
    """
    keep = FILTERS[algorithm.filter]
    out = np.zeros(len(groups), bool)
    for group in np.unique(groups):
        rows = groups == group
        out[rows] = keep(rewards[rows & np.isfinite(rewards)], algorithm)
    return out


def reward_metrics(scores: Scores) -> dict[str, float]:
    """TRL's ``reward``, ``reward_std`` and ``frac_reward_zero_std`` (the share in groups of equal rewards)."""
    rewards = np.asarray(scores.rewards, np.float64)
    scored = rewards[np.isfinite(rewards)]
    if not scored.size:
        return {"reward": float("nan"), "reward_std": float("nan"), "frac_reward_zero_std": 0.0}
    equal = np.zeros(len(rewards), bool)
    for group in np.unique(scores.groups):
        rows = scores.groups == group
        values = rewards[rows & np.isfinite(rewards)]
        equal[rows] = len(values) > 1 and np.std(values, ddof=1) <= 1e-8
    return {
        "reward": float(scored.mean()),
        "reward_std": float(scored.std(ddof=1)) if len(scored) > 1 else 0.0,
        "frac_reward_zero_std": float(equal.mean()),
    }
