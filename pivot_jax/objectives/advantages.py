"""Advantages of sampled responses from their rewards, on the host, over the global batch of a rollout.

Letters: N responses, t tokens of the longest, g responses of a group, f reward functions. In the formulas r_i is the
reward of response i, μ_g and σ_g mean and standard deviation (unbiased) over its group, L_i its length in tokens.

A response without a reward (NaN: no reward function scored it) is left out of every statistic and has the advantage 0,
as in TRL. To add one, write ``f(scores, algorithm) -> [N] or [N, t]`` here and give it an entry in :data:`ADVANTAGES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.divergences import CLAMP, KL

Array = np.ndarray
_EPS = 1e-8


@dataclass(frozen=True)
class Scores:
    """What advantages are computed from: the responses of a whole rollout batch, of all processes.

    Attributes:
      rewards: float [N], NaN where no reward function scored the response.
      groups: int [N]; responses to one prompt have the same number.
      lengths: int [N], tokens of each response, end token included.
      parts: float [N, f], each reward function's own rewards, and their weights [f] (``gdpo``).
      greedy: float [N], the reward of the greedy response to the same prompt (``remax``).
      old_logps, ref_logps: float [N, t], under the policy that is updated and under the reference (a KL reward).
      values: float [N, t], of a value head (``gae``).
    """

    rewards: Array
    groups: Array
    lengths: Array
    parts: tuple[Array, Array] | None = None
    greedy: Array | None = None
    old_logps: Array | None = None
    ref_logps: Array | None = None
    values: Array | None = None

    @cached_property
    def mask(self) -> Array:
        """True at the tokens of scored responses: bool [N, t]."""
        known = [x.shape[1] for x in (self.old_logps, self.values) if x is not None]
        t = known[0] if known else int(np.max(self.lengths, initial=0))
        return (np.arange(t) < self.lengths[:, None]) & np.isfinite(self.rewards)[:, None]

    def token_kl(self, algorithm: Algorithm) -> Array | None:
        """KL estimate per token that the rewards are reduced by, float64 [N, t]; None where there is no KL reward."""
        if algorithm.kl_in != "reward" or not algorithm.kl_coefficient:
            return None
        old, ref = need(self.old_logps, "old_logps"), need(self.ref_logps, "ref_logps")
        values = np.asarray(KL[algorithm.kl](old, ref, np.zeros_like(old)), np.float64)
        bound = np.inf if algorithm.kl_clamp == "none" else CLAMP
        return np.where(self.mask, np.clip(values, -bound, bound), 0.0)

    def totals(self, algorithm: Algorithm) -> Array:
        """r - β Σ_t KL_t, float64 [N]; r alone where there is no KL reward."""
        kl = self.token_kl(algorithm)
        rewards = np.asarray(self.rewards, np.float64)
        return rewards if kl is None else rewards - algorithm.kl_coefficient * kl.sum(1)

    def token_rewards(self, algorithm: Algorithm) -> Array:
        """-β KL_t, and r at the last token: float64 [N, t]."""
        kl = self.token_kl(algorithm)
        out = np.zeros(self.mask.shape) if kl is None else -algorithm.kl_coefficient * kl
        rows = np.flatnonzero(self.mask.any(1))
        out[rows, self.lengths[rows] - 1] += self.rewards[rows]
        return out


def need(values: Array | None, name: str) -> Array:
    """``values``, or an error that names what the algorithm lacks."""
    if values is None:
        raise ValueError(f"Scores.{name}: None, but the algorithm reads it")
    return np.asarray(values)


def advantages(algorithm: Algorithm, scores: Scores) -> Array:
    """Advantage of every token of every response: float32 [N, t], 0 after its end and where it has no reward.

    Raises:
      UserError: another number of rewards per group than the algorithm needs, or a batch that does not divide.
      ValueError: an array that the algorithm reads is missing.
    """
    values = np.asarray(ADVANTAGES[algorithm.advantage].function(scores, algorithm))
    if values.ndim == 1:
        values = np.repeat(values[:, None], scores.mask.shape[1], axis=1)
    return np.where(scores.mask & np.isfinite(values), values, 0.0).astype(np.float32)


def _std(values: Array) -> float:
    """Unbiased standard deviation; exactly 0 where all values are equal, NaN of fewer than two."""
    if len(values) < 2:
        return float("nan")
    return float(np.std(values, ddof=1)) if np.ptp(values) else 0.0


def _centred(values: Array) -> Array:
    """values - mean; exactly 0 where all are equal."""
    return values - values.mean() if np.ptp(values) else np.zeros_like(values)


def _by_group(scores: Scores, algorithm: Algorithm, rewards: Array, function: Callable[[Array, Array], Array]) -> Array:
    """``function(rewards [g], lengths [g]) -> [g]`` of the scored responses of every group: [N], NaN elsewhere.

    A single scored response has nothing to be compared with: its advantage is 0 (TRL), or with ``singleton`` "raw" its
    reward (verl: mean 0 and standard deviation 1).
    """
    out = np.full(len(rewards), np.nan)
    for group in np.unique(scores.groups):
        rows = np.flatnonzero((scores.groups == group) & np.isfinite(rewards))
        if len(rows) > 1:
            out[rows] = function(rewards[rows], scores.lengths[rows])
        else:
            out[rows] = rewards[rows] if algorithm.singleton == "raw" else 0.0
    return out


def grpo(scores: Scores, algorithm: Algorithm) -> Array:
    """(r - μ_g) / (σ_g + ε). Shao et al. 2024, section 4.1.2."""
    return _by_group(
        scores, algorithm, scores.totals(algorithm), lambda r, _: _centred(r) / (_std(r) + algorithm.std_eps)
    )


def dr_grpo(scores: Scores, algorithm: Algorithm) -> Array:
    """r - μ_g: long or easy groups get no larger weight. Liu et al. 2025, "Understanding R1-Zero-like training"."""
    return _by_group(scores, algorithm, scores.totals(algorithm), lambda r, _: _centred(r))


def batch_std(scores: Scores, algorithm: Algorithm) -> Array:
    """(r - μ_g) / (σ_batch + ε). TRL's ``scale_rewards="batch"`` (Liu et al. 2025, "Part I: tricks or traps")."""
    rewards = scores.totals(algorithm)
    return dr_grpo(scores, algorithm) / (_std(rewards[np.isfinite(rewards)]) + algorithm.std_eps)


def rloo(scores: Scores, algorithm: Algorithm) -> Array:
    """r_i - mean of the other rewards of its group = g / (g - 1) (r_i - μ_g). Ahmadian et al. 2024."""
    return _by_group(scores, algorithm, scores.totals(algorithm), lambda r, _: _centred(r) * (len(r) / (len(r) - 1)))


def returns_to_go(rewards: Array, gamma: float) -> Array:
    """R_t = r_t + γ R_(t+1), [N, t]."""
    out = np.zeros_like(rewards)
    running = np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        out[:, t] = running
    return out


def whiten(values: Array, mask: Array, algorithm: Algorithm) -> Array:
    """(x - μ) / sqrt(σ² + 1e-8) over all masked tokens, σ² unbiased; 0 elsewhere.

    ``whitened_mean`` "kept" adds μ back, as the released code of MAYE does (``whiten(shift_mean=True)``); its paper has
    no whitening. ``statistics_parts`` takes μ and σ over each of so many equal, consecutive parts of the rows: MAYE's
    are those of one rank. TRL, verl and OpenRLHF whiten over the global batch without the mean.

    Args:
      values: [N, t]. mask: bool [N, t].

    Raises:
      UserError: parts that do not divide N.
    """
    parts = algorithm.statistics_parts
    if len(values) % parts:
        raise UserError(
            f"rl.statistics_parts: {parts} does not divide the {len(values)} responses of a rollout batch; set it to a "
            "divisor (1: statistics of the whole batch)"
        )
    out = np.zeros_like(values)
    for rows in np.split(np.arange(len(values)), parts):
        x, m = values[rows], mask[rows]
        count = max(m.sum(), 1)
        mean = (x * m).sum() / count
        variance = ((x - mean) ** 2 * m).sum() / count * count / max(count - 1, 1)
        shift = mean if algorithm.whitened_mean == "kept" else 0.0
        out[rows] = np.where(m, (x - mean) / np.sqrt(variance + _EPS) + shift, 0.0)
    return out


def reinforce_pp(scores: Scores, algorithm: Algorithm) -> Array:
    """Whitened return-to-go of r at the end token - β KL_t, without groups. REINFORCE++: Hu et al. 2025; MAYE, eq. 1.

    The KL reward is that of :class:`Algorithm`. verl's variance, unbiased; OpenRLHF takes the biased one.
    """
    return whiten(returns_to_go(scores.token_rewards(algorithm), algorithm.gamma), scores.mask, algorithm)


def reinforce_pp_baseline(scores: Scores, algorithm: Algorithm) -> Array:
    """r - μ_g, then whitened over all tokens of the batch. Hu et al. 2025; verl, OpenRLHF."""
    centred = np.nan_to_num(dr_grpo(scores, algorithm))[:, None]
    return whiten(np.where(scores.mask, centred, 0.0), scores.mask, algorithm)


def opo(scores: Scores, algorithm: Algorithm) -> Array:
    """r - Σ_j L_j r_j / Σ_j L_j over the group, the variance-optimal baseline. Hao et al. 2025."""
    return _by_group(
        scores,
        algorithm,
        scores.totals(algorithm),
        lambda r, lengths: r - np.average(r, weights=lengths) if np.ptp(r) else 0 * r,
    )


def gpg(scores: Scores, algorithm: Algorithm) -> Array:
    """N / N' (r - μ_g), N' the responses with an advantage other than 0. Chu et al. 2025, eq. 6.

    verl takes the responses with a reward other than 0 as N'.
    """
    centred = dr_grpo(scores, algorithm)
    scored = np.isfinite(centred)
    return centred * (scored.sum() / max(np.count_nonzero(centred[scored]), 1))


def remax(scores: Scores, algorithm: Algorithm) -> Array:
    """r - r of the greedy response. Li et al. 2023."""
    return scores.totals(algorithm) - need(scores.greedy, "greedy")


def gdpo(scores: Scores, algorithm: Algorithm) -> Array:
    """Each reward function normalised in its group, Σ weight * that, then normalised over the batch.

    TRL's ``multi_objective_aggregation="normalize_then_sum"``; Liu et al. 2026. A function that did not score a
    response is left out of its sum.
    """
    parts, weights = need(scores.parts and scores.parts[0], "parts"), need(scores.parts and scores.parts[1], "parts")

    def normalised(r: Array, lengths: Array) -> Array:
        return _centred(r) / (_std(r) + algorithm.std_eps)

    columns = [_by_group(scores, algorithm, np.asarray(column, np.float64), normalised) for column in parts.T]
    total = np.nansum(np.stack(columns, axis=1) * weights, axis=1)
    total[~np.isfinite(parts).any(axis=1)] = np.nan
    scored = total[np.isfinite(total)]
    return (total - scored.mean()) / (_std(scored) + algorithm.std_eps)


def pass_at_k(scores: Scores, algorithm: Algorithm) -> Array:
    """(r_best - r_second) / (σ_g + ε) for the best response of a group, 0 for the others. verl's GRPO for pass@k.

    Chen et al. 2025, "Pass@k training".
    """

    def best(r: Array, lengths: Array) -> Array:
        out = np.zeros_like(r)
        second, first = np.sort(r)[-2:]
        out[np.argmax(r)] = (first - second) / (_std(r) + algorithm.std_eps)
        return out

    return _by_group(scores, algorithm, scores.totals(algorithm), best)


def generalised(scores: Scores, algorithm: Algorithm) -> tuple[Array, Array]:
    """(advantages before whitening, returns A + V), float64 [N, t].

    δ_t = r_t + γ V_(t+1) - V_t and A_t = δ_t + γ λ A_(t+1): GAE, Schulman et al. 2015. V after the
    last token of a response is 0.
    """
    values = np.where(scores.mask, need(scores.values, "values"), 0.0)
    following = np.pad(values, ((0, 0), (0, 1)))[:, 1:]
    delta = np.where(scores.mask, scores.token_rewards(algorithm) + algorithm.gamma * following - values, 0.0)
    found = returns_to_go(delta, algorithm.gamma * algorithm.gae_lambda)
    return found, found + values


def gae(scores: Scores, algorithm: Algorithm) -> Array:
    """Generalised advantage estimates, whitened over all tokens of the batch; PPO's."""
    return whiten(generalised(scores, algorithm)[0], scores.mask, algorithm)


def value_targets(scores: Scores, algorithm: Algorithm) -> Array:
    """The returns A + V that the value head learns, before A is whitened: float32 [N, t].

    NaN where there is none: after a response's end, and where it has no reward.
    """
    return np.where(scores.mask, generalised(scores, algorithm)[1], np.nan).astype(np.float32)


def value_metrics(scores: Scores, returns: Array) -> dict[str, float]:
    """How well the values before the update predict ``returns``, [N, t], those of :func:`value_targets`.

    ``value/explained_variance`` is 1 - Var(R - V) / (Var(R) + 1e-5) over all tokens, as verl's
    ``critic/vf_explained_var``: 1 for a perfect prediction, 0 for a constant, below 0 for a worse one.
    """
    known = np.isfinite(returns)
    if not known.any():
        return {}
    found = returns[known].astype(np.float64)
    left = found - need(scores.values, "values")[known]
    return {
        "value/explained_variance": float(1 - left.var() / (found.var() + 1e-5)),
        "value/returns_mean": float(found.mean()),
    }


@dataclass(frozen=True)
class Advantage:
    """An estimator, and whether it compares the responses to one prompt (then a prompt needs two or more).

    ``needs`` is what it reads that the training loop does not provide; "": nothing. ``values``: it reads those of a
    value head, which the model then has.
    """

    function: Callable[[Scores, Algorithm], Any]
    grouped: bool = True
    needs: str = ""
    values: bool = False


ADVANTAGES: dict[str, Advantage] = {
    "grpo": Advantage(grpo),
    "dr_grpo": Advantage(dr_grpo),
    "batch_std": Advantage(batch_std),
    "rloo": Advantage(rloo),
    "reinforce++": Advantage(reinforce_pp, grouped=False),
    "reinforce++-baseline": Advantage(reinforce_pp_baseline),
    "opo": Advantage(opo),
    "gpg": Advantage(gpg),
    "remax": Advantage(remax, grouped=False, needs="the reward of a greedy response"),
    "gdpo": Advantage(gdpo),
    "pass_at_k": Advantage(pass_at_k),
    "gae": Advantage(gae, grouped=False, values=True),
}
