"""Policy losses of sampled responses, as parts that compose: ratio level, clip form, aggregation.

A clip form is ``f(stats, algorithm) -> (losses, {metric: values})``: a loss and metrics per token, float32 [b, t];
``stats`` is :class:`~pivot_jax.objectives.responses.ResponseStats`. To add one, write a function here and give it an
entry in :data:`CLIPS`; ``rl.clip`` can then name it.

In the formulas ℓ is the log-prob of a token, Δ = ℓ - ℓ_old, m the mean over the tokens of a response, sg a stopped
gradient, A the advantage, ρ = exp of the ratio level's log-ratio. At Δ = 0 all forms have the gradient -A ∇ℓ (up to the
tokens that a ratio level averages over); their values differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.divergences import BOUND
from pivot_jax.objectives.responses import Responses, ResponseStats

_stop = jax.lax.stop_gradient
_SMALLEST = math.log(1e-8)  # lower bound of VESPO's log-weights


def token(stats: ResponseStats) -> Any:
    """Δ of each token (PPO, GRPO)."""
    return stats.deltas


def sequence(stats: ResponseStats) -> Any:
    """m(Δ) at each token of the response, the gradient through the mean: GSPO (Zheng et al. 2025, eq. 7)."""
    return stats.spread(stats.means(stats.deltas))


def sequence_token(stats: ResponseStats) -> Any:
    """ℓ - sg(ℓ) + sg(m(Δ)), at most 10: the value of ``sequence``, each token's own gradient (GSPO-token, eq. 14)."""
    return jnp.minimum(stats.logps - _stop(stats.logps) + _stop(sequence(stats)), 10.0)


def sequence_product(stats: ResponseStats) -> Any:
    """Σ Δ over the response at each of its tokens: the response as one action (RLOO: Ahmadian et al. 2024; TRL)."""
    return stats.spread(stats.sums(stats.deltas))


# Log-ratio per token, [b, t]. Those that begin with "sequence" are equal over a response.
RATIOS: dict[str, Callable[[ResponseStats], Any]] = {
    "token": token,
    "sequence": sequence,
    "sequence_token": sequence_token,
    "sequence_product": sequence_product,
}


def ratios(stats: ResponseStats, algorithm: Algorithm) -> Any:
    """ρ with the log-ratio within ±20, as verl has it: beyond, exp overflows and its gradient is not finite."""
    return jnp.exp(jnp.clip(RATIOS[algorithm.ratio](stats), -BOUND, BOUND))


Clipped = tuple[Any, dict[str, Any]]


def _clip_ratios(low: Any, high: Any, advantages: Any) -> dict[str, Any]:
    """TRL's metrics: where the clip takes the gradient away."""
    low, high = low & (advantages < 0), high & (advantages > 0)
    return {
        "clip_ratio/low_mean": low.astype(jnp.float32),
        "clip_ratio/high_mean": high.astype(jnp.float32),
        "clip_ratio/region_mean": (low | high).astype(jnp.float32),
    }


def ppo(stats: ResponseStats, algorithm: Algorithm) -> Clipped:
    """-min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A). Schulman et al. 2017, eq. 7; ε_high > ε_low: DAPO's clip-higher."""
    ratio, a = ratios(stats, algorithm), stats.advantages
    low, high = 1 - algorithm.clip_low, 1 + algorithm.clip_high
    return -jnp.minimum(ratio * a, jnp.clip(ratio, low, high) * a), _clip_ratios(ratio < low, ratio > high, a)


def dual(stats: ResponseStats, algorithm: Algorithm) -> Clipped:
    """``ppo``, and for A < 0 at most -c A, c = ``clip_cap``: a ratio far above 1 has no gradient there either.

    Dual clip: Ye et al. 2020, eq. 6; verl's default with c = 3. TRL's ``delta`` caps ρ itself, which is the same for
    c > 1 + ε_high.
    """
    losses, metrics = ppo(stats, algorithm)
    capped = jnp.minimum(losses, -algorithm.clip_cap * stats.advantages)
    metrics["clip_ratio/cap_mean"] = ((stats.advantages < 0) & (capped < losses)).astype(jnp.float32)
    return jnp.where(stats.advantages < 0, capped, losses), metrics


def cispo_trl(stats: ResponseStats, algorithm: Algorithm) -> Clipped:
    """-sg(min(ρ, ε_high)) A ℓ: no token loses its gradient, and ε_high is an absolute bound. TRL, ms-swift.

    CISPO: MiniMax-M1 (2025), eq. 4 and 5; ε_high = 5 as in ScaleRL.
    """
    ratio = ratios(stats, algorithm)
    clipped = (ratio > algorithm.clip_high) & (stats.advantages > 0)
    losses = -_stop(jnp.minimum(ratio, algorithm.clip_high)) * stats.advantages * stats.logps
    return losses, {"cispo_clip_ratio": clipped.astype(jnp.float32)}


def cispo_verl(stats: ResponseStats, algorithm: Algorithm) -> Clipped:
    """-sg(clip(ρ, 1 - ε_low, 1 + ε_high)) A ℓ: CISPO with two bounds around 1. verl, EasyR1."""
    ratio, a = ratios(stats, algorithm), stats.advantages
    low, high = 1 - algorithm.clip_low, 1 + algorithm.clip_high
    losses = -_stop(jnp.clip(ratio, low, high)) * a * stats.logps
    return losses, {"cispo_clip_ratio": ((ratio < low) | (ratio > high)).astype(jnp.float32)}


def sapo(stats: ResponseStats, algorithm: Algorithm) -> Clipped:
    """-(4 / τ) σ(τ (ρ - 1)) A, τ by the sign of A: a soft gate, with slope 1 at ρ = 1. SAPO: Gao et al. 2025."""
    positive, other = algorithm.sapo_temperatures
    tau = jnp.where(stats.advantages > 0, positive, other)
    return -(4 / tau) * jax.nn.sigmoid(tau * (ratios(stats, algorithm) - 1)) * stats.advantages, {}


def gmpo(stats: ResponseStats, algorithm: Algorithm) -> Clipped:
    """-A exp(m(Δ')), Δ' = min(Δ, ε_high) for A > 0, else max(Δ, -ε_low): a geometric mean, clipped in log space.

    GMPO: Zhao et al. 2025, eq. 5. Equal at all tokens of a response.
    """
    low, high = -algorithm.clip_low, algorithm.clip_high
    deltas = jnp.clip(stats.deltas, -BOUND, BOUND)
    bounded = jnp.where(stats.advantages > 0, jnp.minimum(deltas, high), jnp.maximum(deltas, low))
    ratio = jnp.exp(stats.spread(stats.means(bounded)))
    return -ratio * stats.advantages, _clip_ratios(deltas < low, deltas > high, stats.advantages)


def vespo(stats: ResponseStats, algorithm: Algorithm) -> Clipped:
    """-sg(φ(w)) A ℓ, φ(w) = e^λ w^k e^(-λ w), w = exp(Σ Δ) * importance of the whole response. TRL; Shen et al. 2026.

    (k, λ) differ by the sign of A (``vespo_shape``). The importance correction is inside w, so it is not applied again.
    """
    log_weight = stats.sums(jnp.clip(stats.deltas, -BOUND, BOUND))
    if stats.importance is not None:
        logs = jnp.where(stats.mask > 0, jnp.clip(jnp.log(stats.importance), _SMALLEST, BOUND), 0.0)
        whole = algorithm.importance.startswith(("sequence", "geometric"))
        log_weight += stats.means(logs) if whole else stats.sums(logs)
    log_weight = stats.spread(jnp.clip(log_weight, _SMALLEST, BOUND))
    k_positive, rate_positive, k_other, rate_other = algorithm.vespo_shape
    k = jnp.where(stats.advantages >= 0, k_positive, k_other)
    rate = jnp.where(stats.advantages >= 0, rate_positive, rate_other)
    phi = _stop(jnp.exp(rate + k * log_weight - rate * jnp.exp(log_weight)))
    return -phi * stats.advantages * stats.logps, {"vespo/phi_seq_mean": phi}


@dataclass(frozen=True)
class Clip:
    """A clip form and its properties.

    Attributes:
      function: (stats, algorithm) → (losses, metrics), [b, t] each.
      reads: the settings of :class:`Algorithm` that it reads; setting another one is an error.
      corrects: it applies the importance correction itself.
    """

    function: Callable[[ResponseStats, Algorithm], Clipped]
    reads: tuple[str, ...] = ("ratio", "clip_low", "clip_high")
    corrects: bool = False


CLIPS: dict[str, Clip] = {
    "ppo": Clip(ppo),
    "dual": Clip(dual, ("ratio", "clip_low", "clip_high", "clip_cap")),
    "cispo-trl": Clip(cispo_trl, ("ratio", "clip_high")),
    "cispo-verl": Clip(cispo_verl),
    "sapo": Clip(sapo, ("ratio", "sapo_temperatures")),
    "gmpo": Clip(gmpo, ("clip_low", "clip_high")),
    "vespo": Clip(vespo, ("vespo_shape",), corrects=True),
}


def off_policy_mask(stats: ResponseStats, threshold: float) -> Any:
    """0 at all tokens of a response with A < 0 and m(ℓ_samp - ℓ) > δ, else 1: [b, t].

    Off-policy sequence masking: DeepSeek-V3.2 (2025); ℓ_samp is the sampler's where the batch has it, else ℓ_old.
    """
    sampled = stats.old_logps if stats.sampling_logps is None else stats.sampling_logps
    drift = stats.spread(stats.means(sampled - _stop(stats.logps)))
    return ((stats.advantages >= 0) | (drift <= threshold)).astype(jnp.float32)


# An aggregation is (weights w [b, t], total W): the loss is Σ losses * w over all micro-batches / Σ W. Both follow from
# the batch alone.
Weighting = tuple[Any, Any]


def token_mean(responses: Responses, max_tokens: int) -> Weighting:
    """Σ over tokens / tokens of the whole step. DAPO; the default of TRL (``dapo``) and verl (``token-mean``)."""
    return responses.mask, jnp.sum(responses.mask)


def sequence_mean(responses: Responses, max_tokens: int) -> Weighting:
    """Token mean of each response, then the mean over responses: GRPO's 1 / |o| (TRL ``grpo``)."""
    return responses.shares, responses.count


def sequence_sum(responses: Responses, max_tokens: int) -> Weighting:
    """Σ over the tokens of each response, then the mean over responses (TRL ``luspo``; verl ``seq-mean-token-sum``)."""
    return responses.mask, responses.count


def constant(responses: Responses, max_tokens: int) -> Weighting:
    """Σ over tokens / (responses * limit of a response): Dr. GRPO, without a bias of length (TRL ``dr_grpo``)."""
    return responses.mask, responses.count * max_tokens


def microbatch_token_mean(responses: Responses, max_tokens: int) -> Weighting:
    """Token mean of each micro-batch, then the mean over micro-batches. MAYE; TRL ``bnpo``.

    It depends on ``train.accumulate`` by definition: short responses weigh more in a micro-batch of short ones. A
    micro-batch counts by its responses, so that one with masked rows counts less.
    """
    tokens = jnp.maximum(jnp.sum(responses.mask), 1.0)
    return responses.mask * (responses.count / tokens), responses.count


AGGREGATIONS: dict[str, Callable[[Responses, int], Weighting]] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "sequence_sum": sequence_sum,
    "constant": constant,
    "microbatch_token_mean": microbatch_token_mean,
}


def value_loss(values: Any, old_values: Any, returns: Any, clip: float) -> Any:
    """½ max((V - R)², (clip(V, V_old ± c) - R)²) per token. PPO's critic: Schulman et al. 2017; verl, c = 0.5.

    Args:
      values, old_values, returns: float32 [...], of the value head now, at the start of the update, and the targets.
      clip: c; 0: ½ (V - R)².
    """
    if not clip:
        return 0.5 * (values - returns) ** 2
    clipped = old_values + jnp.clip(values - old_values, -clip, clip)
    return 0.5 * jnp.maximum((values - returns) ** 2, (clipped - returns) ** 2)
