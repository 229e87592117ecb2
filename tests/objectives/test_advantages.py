"""Advantages against formulas written out by hand, and their invariances. TRL: test_advantages_trl_parity.py."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.objectives.advantages import ADVANTAGES, Scores, advantages, generalised
from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.filters import kept

GROUPS, N = 5, 4
# [groups * 4, 2]: rewards of two functions, NaN where one did not score
REWARDS = np.random.default_rng(0).normal(size=(GROUPS * N, 2)).round(1)
REWARDS[4:8] = 0.5  # no variance
REWARDS[8:11] = np.nan  # one scored response
REWARDS[13] = np.nan
REWARDS[15, 1] = np.nan
WEIGHTS = np.asarray([1.0, 0.5])


def scores(parts=REWARDS, groups=None, **more):
    total = np.nansum(parts * WEIGHTS[: parts.shape[1]], axis=1)
    total[np.isnan(parts).all(1)] = np.nan
    count = len(total)
    groups = np.arange(count) // N if groups is None else np.asarray(groups)
    more.setdefault("lengths", 1 + np.arange(count) % 3)
    return Scores(total, groups, parts=(parts, WEIGHTS), **more)


def of(rewards, groups=None, lengths=None, **more):
    """Scores of one reward function."""
    rewards = np.asarray(rewards, np.float64)
    groups = np.zeros(len(rewards), int) if groups is None else np.asarray(groups)
    lengths = np.ones(len(rewards), int) if lengths is None else np.asarray(lengths)
    return Scores(rewards, groups, lengths, **more)


def test_rloo_subtracts_the_kl_of_a_response_from_its_reward():
    """TRL: reward - β Σ_t (log π - log π_ref), before the baseline."""
    rng = np.random.default_rng(1)
    old, ref = rng.normal(size=(2, 4, 3)).astype(np.float32)
    lengths = np.asarray([3, 1, 2, 3])
    mask = np.arange(3) < lengths[:, None]
    r = np.asarray([1.0, 0, 1, 0]) - 0.05 * ((old - ref) * mask).sum(1)
    want = [r[i] - np.delete(r, i).mean() for i in range(4)]
    algorithm = Algorithm(advantage="rloo", kl="k1", kl_in="reward", kl_coefficient=0.05)
    got = advantages(algorithm, of([1, 0, 1, 0], lengths=lengths, old_logps=old, ref_logps=ref))
    np.testing.assert_allclose(got, np.asarray(want)[:, None] * mask, atol=1e-6)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_responses_without_a_reward_change_no_other_and_have_advantage_0(name):
    """A batch with an unscored response equals the batch without it, in each advantage."""
    rng = np.random.default_rng(2)
    parts = rng.normal(size=(9, 2))
    parts[4] = np.nan
    more = {"values": rng.normal(size=(9, 3)), "greedy": rng.normal(size=9)}
    groups = [0, 0, 0, 1, 1, 1, 1, 2, 2]
    whole = advantages(Algorithm(advantage=name), scores(parts, groups, **more))
    rest = np.delete(np.arange(9), 4)
    few = scores(parts[rest], np.asarray(groups)[rest], lengths=(1 + np.arange(9) % 3)[rest],
                 **{key: value[rest] for key, value in more.items()})  # fmt: skip
    np.testing.assert_allclose(whole[rest], advantages(Algorithm(advantage=name), few), atol=1e-6)
    np.testing.assert_array_equal(whole[4], 0)
    assert np.abs(whole).max() > 0.01


@pytest.mark.parametrize("name", [name for name, one in ADVANTAGES.items() if one.grouped])
def test_groups_of_equal_rewards_and_of_one_response_have_advantage_0(name):
    """Exactly 0, also for rewards whose mean rounds; in the whitened one up to the statistics of the batch."""
    parts = np.asarray([[0.1] * 2] * 3 + [[0.7] * 2])
    got = advantages(Algorithm(advantage=name, std_eps=1e-9), scores(parts, [0, 0, 0, 1]))
    if name == "gdpo":  # nothing varies in the batch either
        np.testing.assert_array_equal(np.nan_to_num(got), 0)
    np.testing.assert_array_equal(got, 0)


def test_a_single_response_keeps_its_reward_with_verls_rule():
    """verl: mean 0, standard deviation 1."""
    got = advantages(Algorithm(singleton="raw"), of([0.7, 1.0, 0.0], [0, 1, 1]))
    np.testing.assert_allclose(got[:, 0], [0.7, 0.5 / np.std([1, 0], ddof=1), -0.5 / np.std([1, 0], ddof=1)], atol=1e-3)


def test_hand_computed_advantages():
    """One group of rewards 1, 0, 0.5, 0 of lengths 1, 2, 3, 2: μ = 0.375, σ = 0.478714, Σ L r / Σ L = 2.5 / 8."""
    group = of([1, 0, 0.5, 0], lengths=[1, 2, 3, 2], greedy=np.full(4, 0.25))

    def values(name):
        return advantages(Algorithm(advantage=name, std_eps=0.0), group)[:, 0]

    np.testing.assert_allclose(values("grpo"), np.asarray([0.625, -0.375, 0.125, -0.375]) / 0.4787136, atol=1e-6)
    np.testing.assert_allclose(values("dr_grpo"), [0.625, -0.375, 0.125, -0.375], atol=1e-7)
    np.testing.assert_allclose(values("rloo"), [0.8333333, -0.5, 0.1666667, -0.5], atol=1e-6)
    np.testing.assert_allclose(values("opo"), [0.6875, -0.3125, 0.1875, -0.3125], atol=1e-7)
    np.testing.assert_allclose(values("remax"), [0.75, -0.25, 0.25, -0.25], atol=1e-7)
    np.testing.assert_allclose(values("pass_at_k"), [0.5 / 0.4787136, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(values("gpg"), values("dr_grpo"), atol=1e-7)


def test_gpg_scales_by_the_share_of_responses_with_an_advantage():
    """Of six responses two have one: every advantage times 3."""
    got = advantages(Algorithm(advantage="gpg"), of([1, 0, 1, 1, 0, 0], [0, 0, 1, 1, 2, 2]))
    np.testing.assert_allclose(got[:, 0], [1.5, -1.5, 0, 0, 0, 0], atol=1e-7)


def test_reinforce_pp_baseline_whitens_the_centred_rewards_over_tokens():
    lengths = np.asarray([1, 3, 2, 2])
    got = advantages(Algorithm(advantage="reinforce++-baseline"), of([1, 0, 1, 0.5], [0, 0, 1, 1], lengths))
    tokens = np.repeat([0.5, -0.5, 0.25, -0.25], lengths)
    want = (np.asarray([0.5, -0.5, 0.25, -0.25]) - tokens.mean()) / np.std(tokens, ddof=1)
    np.testing.assert_allclose([row[0] for row in got], want, atol=1e-5)
    found = got[np.arange(3) < lengths[:, None]]
    assert abs(found.mean()) < 1e-6
    assert abs(found.var(ddof=1) - 1) < 1e-5


def test_reinforce_pp_takes_the_kl_off_each_token_and_discounts():
    """r_t = -β KL_t + r at the last token; R_t = r_t + γ R_(t+1)."""
    rng = np.random.default_rng(3)
    old, ref = rng.normal(size=(2, 2, 3)).astype(np.float32)
    algorithm = Algorithm(advantage="reinforce++", kl="k1", kl_in="reward", kl_coefficient=0.1, gamma=0.9)
    got = advantages(algorithm, of([1, 0], lengths=[3, 2], old_logps=old, ref_logps=ref))
    r = -0.1 * (old - ref)
    r[0, 2] += 1
    returns = [
        r[0, 0] + 0.9 * (r[0, 1] + 0.9 * r[0, 2]),
        r[0, 1] + 0.9 * r[0, 2],
        r[0, 2],
        r[1, 0] + 0.9 * r[1, 1],
        r[1, 1],
    ]
    want = (returns - np.mean(returns)) / np.std(returns, ddof=1)
    np.testing.assert_allclose([*got[0], *got[1, :2]], want, atol=1e-5)
    assert got[1, 2] == 0


def test_gae_equals_a_loop_over_time_and_its_limits():
    """λ = 1: returns are the discounted rewards to go; λ = 0: A = δ."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=(2, 4))
    one = of([1, -1], lengths=[4, 2], values=values)
    gamma, rate = 0.9, 0.8
    found, returns = generalised(one, Algorithm(gamma=gamma, gae_lambda=rate))
    for row, (length, reward) in enumerate(((4, 1.0), (2, -1.0))):
        following, advantage = 0.0, 0.0
        for t in reversed(range(length)):
            delta = (reward if t == length - 1 else 0.0) + gamma * following - values[row, t]
            advantage = delta + gamma * rate * advantage
            following = values[row, t]
            np.testing.assert_allclose(found[row, t], advantage, atol=1e-12)
            np.testing.assert_allclose(returns[row, t], advantage + values[row, t], atol=1e-12)
    np.testing.assert_array_equal(found[1, 2:], 0)
    _, returns = generalised(one, Algorithm(gamma=gamma, gae_lambda=1.0))
    np.testing.assert_allclose(returns[0], gamma ** np.arange(3, -1, -1), atol=1e-12)
    whitened = advantages(Algorithm(advantage="gae"), one)
    assert abs(whitened[np.arange(4) < np.asarray([[4], [2]])].mean()) < 1e-6


def test_missing_inputs_name_the_array():
    with pytest.raises(ValueError, match=r"Scores\.values: None, but the algorithm reads it"):
        advantages(Algorithm(advantage="gae"), of([1, 0]))
    with pytest.raises(ValueError, match=r"Scores\.ref_logps: None"):
        advantages(Algorithm(kl_in="reward", kl_coefficient=0.1), of([1, 0], old_logps=np.zeros((2, 1))))


def test_parts_that_do_not_divide_the_batch_are_an_error_with_the_fix():
    with pytest.raises(
        UserError, match=r"rl\.statistics_parts: 2 does not divide the 3 responses .* set it to a divisor"
    ):
        advantages(Algorithm(advantage="reinforce++", statistics_parts=2), of([1, 0, 1]))


def test_filters_keep_or_drop_whole_groups():
    """DAPO's dynamic sampling drops groups that are all right or all wrong; an unscored response does not count."""
    rewards = np.asarray([1, 1, 0, 0, 1, 0, np.nan, 1, np.nan, np.nan, 0.5, 0.5])
    groups = np.repeat(np.arange(6), 2)
    expected = {
        "none": [1, 1, 1, 1, 1, 1],
        "varied": [0, 0, 1, 0, 0, 0],
        "mean_inside": [0, 0, 1, 0, 0, 1],
    }
    for name, want in expected.items():
        np.testing.assert_array_equal(kept(Algorithm(filter=name), rewards, groups), np.repeat(want, 2).astype(bool))
    narrow = Algorithm(filter="mean_inside", filter_low=0.5)
    np.testing.assert_array_equal(kept(narrow, rewards, groups), np.zeros(12, bool))


def test_advantages_do_not_depend_on_the_order_of_the_responses():
    """Permuted rows have permuted advantages."""
    order = np.random.default_rng(5).permutation(GROUPS * N)
    lengths = 1 + np.arange(GROUPS * N) % 3
    for name in ("grpo", "rloo", "opo", "reinforce++", "reinforce++-baseline", "pass_at_k"):
        algorithm = Algorithm(advantage=name)
        moved = scores(REWARDS[order], (np.arange(GROUPS * N) // N)[order], lengths=lengths[order])
        np.testing.assert_allclose(
            advantages(algorithm, moved), advantages(algorithm, scores())[order], atol=1e-6, err_msg=name
        )
