"""Losses of pairs that need no reference model: likelihood terms, controls for SFT, and SimPO, CPO and ORPO.

A loss is ``f(stats, state)``: float32 [b, k], one value per pair, or [b, t], one per scored target; ``stats`` is a
:class:`pairs.PairStats`. In the formulas L = Σ log π(y|x) is the log-prob of an answer and L / |y| its mean per token;
the subscripts c and r are the chosen and the rejected answer. β is ``objective.beta``, ε ``objective.label_smoothing``.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.objectives.paired_losses import smoothed
from pivot_jax.objectives.pairs import PairStats

_CERTAIN = -1e-6  # log-probs above count as this, where log(1 - p) of a token that the model is sure of would be -inf


def sft(stats: PairStats, state: None) -> Any:
    """Negative log-likelihood of the chosen answer: -log π(token). Per target of the chosen answer.

    MPO's generation loss; PIVOT's optional NLL term, weight γ; with its α as weight RPO's (Pang et al. 2024).
    """
    return -stats.logps


def unlikelihood(stats: PairStats, state: None) -> Any:
    """-log(1 - π(token)). Per target of the rejected answer. Welleck et al. 2020, with the rejected tokens.

    Beside ``sft`` a control for preference losses: SFT that has seen the rejected answer, but compares nothing.
    """
    return -_log1mexp(_uncertain(stats.logps))


def margin(stats: PairStats, state: None) -> Any:
    """max(0, m - (L_c / |c| - L_r / |r|)), m = ``objective.margin`` in nats per token. Per pair.

    The rank calibration loss of SLiC-HF (Zhao et al. 2023) with log-probs per token as in RRHF (Yuan et al.
    2023), so that it does not prefer short answers. Beside ``sft`` a control: pairs compared without a reference.
    """
    return jax.nn.relu(stats.settings.margin - _mean_delta(stats))


def simpo(stats: PairStats, state: None) -> Any:
    """-(1-ε) log σ(z) - ε log σ(-z) with z = β (L_c / |c| - L_r / |r|) - γ, γ = ``objective.simpo_gamma``. Per pair.

    SimPO: Meng et al. 2024, eq. 6 (β = 2 to 10, γ = 0.3 to 1.6 there).
    """
    logits = stats.settings.beta * _mean_delta(stats) - stats.settings.simpo_gamma
    return smoothed(logits, stats.settings.label_smoothing)


def cpo(stats: PairStats, state: None) -> Any:
    """-(1-ε) log σ(z) - ε log σ(-z) with z = β (L_c - L_r). Per pair.

    The preference part of CPO: Xu et al. 2024, eq. 3. Its NLL regulariser is the term ``sft`` (preset ``cpo``).
    """
    logits = stats.settings.beta * (stats.sums[..., 0] - stats.sums[..., 1])
    return smoothed(logits, stats.settings.label_smoothing)


def orpo(stats: PairStats, state: None) -> Any:
    """-β log σ(log odds(c) - log odds(r)), log odds(y) = L / |y| - log(1 - e^(L / |y|)). Per pair.

    The odds-ratio part of ORPO: Hong et al. 2024, eq. 4 and 7, where β is λ. Its NLL is the term ``sft`` (preset
    ``orpo``), of the answer as in the paper; TRL's NLL is that of the prompt too.
    """
    means = _uncertain(stats.means)
    odds = means - _log1mexp(means)
    return -stats.settings.beta * jax.nn.log_sigmoid(odds[..., 0] - odds[..., 1])


def _mean_delta(stats: PairStats) -> Any:
    """L_c / |c| - L_r / |r|: float32 [b, k]."""
    return stats.means[..., 0] - stats.means[..., 1]


def _uncertain(logps: Any) -> Any:
    """The log-probs, those above -1e-6 as -1e-6 but with their gradient: what the model is sure of still changes."""
    return logps - jax.lax.stop_gradient(jnp.maximum(logps - _CERTAIN, 0.0))


def _log1mexp(x: Any) -> Any:
    """log(1 - e^x), x < 0. Each form is exact on its side of -log 2, and finite on the other."""
    return jnp.where(x > -math.log(2), jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))
