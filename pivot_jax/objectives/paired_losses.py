"""Losses that compare two answers with the help of a reference model: DPO and its family.

A loss is ``f(stats, state) -> float32 [b, k]``, one value per pair; ``stats`` is a :class:`pairs.PairStats`.

In the formulas r = Σ log π(y|x) - Σ log π_ref(y|x), summed over the answer's tokens, is the log-ratio of an answer, and
s = f'(e^r) its score: r itself, unless ``objective.f_divergence_type`` names another f. The subscripts c and r are the
chosen and the rejected answer, d = s_c - s_r. β is ``objective.beta``, ε ``objective.label_smoothing``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from pivot_jax.objectives.base import Term
from pivot_jax.objectives.pairs import PairStats

log_sigmoid = jax.nn.log_sigmoid


def smoothed(logits: Any, smoothing: float) -> Any:
    """-(1-ε) log σ(z) - ε log σ(-z): the loss where a share ε of the pairs is taken as mislabelled. Any shape."""
    return -(1 - smoothing) * log_sigmoid(logits) - smoothing * log_sigmoid(-logits)


def sigmoid(stats: PairStats, state: None) -> Any:
    """DPO: -log σ(β d); with label smoothing ε, cDPO: -(1-ε) log σ(β d) - ε log σ(-β d).

    DPO: Rafailov et al. 2023, eq. 7, and PIVOT eq. 1, with β = 0.1 and ε = 0. cDPO: Mitchell 2023 (TRL's ``sigmoid``
    ignores its ``label_smoothing``).
    """
    return smoothed(stats.settings.beta * stats.delta, stats.settings.label_smoothing)


def hinge(stats: PairStats, state: None) -> Any:
    """max(0, 1 - β d). SLiC: Zhao et al. 2023; as a loss of log-ratios in RSO: Liu et al. 2023."""
    return jax.nn.relu(1 - stats.settings.beta * stats.delta)


def ipo(stats: PairStats, state: None) -> Any:
    """(s_c / |c| - s_r / |r| - 1 / (2β))². IPO: Azar et al. 2023, eq. 17, where β is τ.

    The log-ratios are means over the tokens of an answer, which the authors confirmed to TRL's.
    """
    return (stats.mean_delta - 1 / (2 * stats.settings.beta)) ** 2


def exo_pair(stats: PairStats, state: None) -> Any:
    """q log(q / (1-ε)) + (1-q) log((1-q) / ε) with q = σ(β d), for 0 < ε. EXO: Ji et al. 2024, eq. 16; ε = 1e-3."""
    logits, smoothing = stats.settings.beta * stats.delta, stats.settings.label_smoothing
    win, lose = log_sigmoid(logits), log_sigmoid(-logits)
    return jnp.exp(win) * (win - jnp.log1p(-smoothing)) + jnp.exp(lose) * (lose - jnp.log(smoothing))


def nca_pair(stats: PairStats, state: None) -> Any:
    """-log σ(β r_c) - ½ log σ(-β r_c) - ½ log σ(-β r_r). NCA: Chen et al. 2024, "Noise contrastive alignment".

    The absolute log-ratio of the chosen answer cannot fall as it can with DPO.
    """
    chosen, rejected = stats.settings.beta * stats.chosen, stats.settings.beta * stats.rejected
    return -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected)


def robust(stats: PairStats, state: None) -> Any:
    """[-(1-ε) log σ(β d) + ε log σ(-β d)] / (1 - 2ε): DPO's loss without bias where a share ε of the labels is flipped.

    Robust DPO: Chowdhury et al. 2024.
    """
    logits, smoothing = stats.settings.beta * stats.delta, stats.settings.label_smoothing
    return (-(1 - smoothing) * log_sigmoid(logits) + smoothing * log_sigmoid(-logits)) / (1 - 2 * smoothing)


@struct.dataclass
class RewardMean:
    """Running mean δ of all rewards β r so far, chosen and rejected; the state of ``bco_pair``.

    A step uses the mean of the steps before it, so accumulation does not change it (InternVL's code includes the
    current micro-batch). At the first step, where every reward is 0, the two agree.
    """

    mean: Any
    count: Any

    @classmethod
    def zero(cls) -> RewardMean:
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    @classmethod
    def start(cls, settings: Any) -> RewardMean | None:
        """The state at step 0; None where ``objective.bco_shift`` is "none"."""
        return cls.zero() if settings.bco_shift == "running_mean" else None

    def add(self, total: Any, count: Any) -> RewardMean:
        """The mean with ``count`` more rewards, which sum to ``total``."""
        seen = self.count + count
        return RewardMean(self.mean + (total - count * self.mean) / jnp.maximum(seen, 1.0), seen)

    def update(self, metrics: dict[str, Term]) -> RewardMean:
        """The mean with the rewards of a step."""
        both = [metrics["rewards/chosen"], metrics["rewards/rejected"]]
        return self.add(sum(term.sum for term in both), sum(term.weight for term in both))


def bco_pair(stats: PairStats, state: RewardMean | None) -> Any:
    """BCO on a pair: -log σ(β r_c - δ) - log σ(-(β r_r - δ)).

    δ is the running mean of all rewards β r (BCO: Jung et al. 2024; the quality loss of InternVL's MPO: Wang et
    al. 2024, eq. 4 and 5), or 0 with ``objective.bco_shift`` "none" (today's TRL).
    """
    beta, delta = stats.settings.beta, 0.0 if state is None else state.mean
    return -log_sigmoid(beta * stats.chosen - delta) - log_sigmoid(-(beta * stats.rejected - delta))


def sppo_hard(stats: PairStats, state: None) -> Any:
    """(r_c - 1/(2β))² + (r_r + 1/(2β))². SPPO: Wu et al. 2024, eq. 4.7, with probabilities 1 and 0 of winning."""
    half = 0.5 / stats.settings.beta
    return (stats.chosen - half) ** 2 + (stats.rejected + half) ** 2


def aot(stats: PairStats, state: None) -> Any:
    """-(1-ε) log σ(β z_i) - ε log σ(-β z_i), z_i = u_(i) - v_(i): u = log π(c) - log π(r), v the same of π_ref, sorted.

    AOT: Melnyk et al. 2024: the policy's margins shall dominate the reference's as a distribution. The
    sort is over the whole batch of all devices.
    """
    policy, reference = (x[..., 0] - x[..., 1] for x in (stats.policy, stats.reference))
    return _dominance(stats, policy, reference)


def aot_unpaired(stats: PairStats, state: None) -> Any:
    """As ``aot`` with z_i = r_c(i) - r_r(i): log-ratios of chosen and rejected answers, each sorted over the batch.

    AOT, unpaired: Melnyk et al. 2024. It does not read which answers belong together.
    """
    return _dominance(stats, stats.chosen, stats.rejected)


def _dominance(stats: PairStats, upper: Any, lower: Any) -> Any:
    """The loss of z = upper - the value of ``lower`` that has the same rank: [b, k], at the place of ``upper``.

    Masked pairs are sorted behind all others in both, so that they take no rank from a pair.
    """
    valid = jnp.ravel(stats.valid) > 0
    upper, lower = jnp.ravel(upper), jnp.ravel(lower)
    orders = [jnp.argsort(jnp.where(valid, jax.lax.stop_gradient(x), jnp.inf)) for x in (upper, lower)]
    ranks = jnp.argsort(orders[0])
    logits = stats.settings.beta * (upper - lower[orders[1]][ranks])
    return smoothed(logits, stats.settings.label_smoothing).reshape(stats.valid.shape)


def apo_zero(stats: PairStats, state: None) -> Any:
    """1 - σ(β r_c) + σ(β r_r): raises the chosen answer, lowers the rejected one.

    For chosen answers that are better than the model's own. APO: D'Oosterlinck et al. 2024, eq. 7.
    """
    beta = stats.settings.beta
    return jax.nn.sigmoid(-beta * stats.chosen) + jax.nn.sigmoid(beta * stats.rejected)


def apo_down(stats: PairStats, state: None) -> Any:
    """σ(β r_c) + 1 - σ(β (r_c - r_r)): lowers both answers, the rejected one more.

    For chosen answers that are worse than the model's own. APO: D'Oosterlinck et al. 2024, eq. 8.
    """
    beta = stats.settings.beta
    return jax.nn.sigmoid(beta * stats.chosen) + jax.nn.sigmoid(-beta * (stats.chosen - stats.rejected))


def discopop(stats: PairStats, state: None) -> Any:
    """(1 - m) (-log σ(β d)) + m e^(-β d) with m = σ(β d / τ), τ = ``objective.discopop_tau``.

    DiscoPOP (LRML): Lu et al. 2024, eq. 5. The product m e^(-β d) is computed as one exponential, clipped at e^20,
    because its factors are 0 and infinite for a large negative d.
    """
    logits, tau = stats.settings.beta * stats.delta, stats.settings.discopop_tau
    exponential = jnp.exp(jnp.minimum(log_sigmoid(logits / tau) - logits, 20.0))
    return -jax.nn.sigmoid(-logits / tau) * log_sigmoid(logits) + exponential


def sigmoid_norm(stats: PairStats, state: None) -> Any:
    """-log σ(β (s_c / |c| - s_r / |r|)): DPO with log-ratios per token. Tülu 3: Lambert et al. 2024."""
    return -log_sigmoid(stats.settings.beta * stats.mean_delta)
