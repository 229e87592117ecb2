"""f-divergences between policy and reference, as scores of answers: f-DPO.

Where DPO regularises with KL(π ‖ π_ref), f-DPO does with a divergence D_f, and the implicit reward of an answer is
β f'(u) with u = π(y|x) / π_ref(y|x) = e^r, up to a constant of the prompt that cancels in the difference of two answers
(Wang et al. 2023, "Beyond reverse KL"). A score is f'(e^r) of the log-ratio r; its names are TRL's.
Exponents are clipped at 20, so that log-ratios of any size have finite scores and gradients; beyond, a score is flat.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.objectives.divergences import BOUND


def reverse_kl(ratios: Any, settings: Any) -> Any:
    """r: f(u) = u log u without the constant of f'. DPO itself."""
    return ratios


def forward_kl(ratios: Any, settings: Any) -> Any:
    """1 - e^-r: f(u) = u - log u - 1."""
    return 1 - _exp(-ratios)


def js_divergence(ratios: Any, settings: Any) -> Any:
    """log 2 + log σ(r): f(u) = u log u - (u + 1) log((u + 1) / 2)."""
    return math.log(2) + jax.nn.log_sigmoid(ratios)


def alpha_divergence(ratios: Any, settings: Any) -> Any:
    """(e^((α-1) r) - 1) / (α - 1), α = ``objective.f_alpha_divergence_coef``; r where α is 1, the limit."""
    power = settings.f_alpha_divergence_coef - 1.0
    return ratios if abs(power) < 1e-6 else (_exp(power * ratios) - 1) / power


def _exp(exponents: Any) -> Any:
    return jnp.exp(jnp.minimum(exponents, BOUND))


SCORES: dict[str, Callable[[Any, Any], Any]] = {
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
    "js_divergence": js_divergence,
    "alpha_divergence": alpha_divergence,
}
