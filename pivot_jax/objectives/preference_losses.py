"""Preference losses on pairs: DPO and the parts that MPO is composed of.

All take log-ratios r = Σ log π(y|x) - Σ log π_ref(y|x), float32 of any shape with one entry
per pair, summed (not averaged) over the answer's tokens, and give one loss per pair in the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from pivot_jax.errors import UserError


def sigmoid(chosen: Any, rejected: Any, beta: float, label_smoothing: float = 0.0) -> Any:
    """DPO: -log σ(β (r_c - r_r)); with label smoothing ε, cDPO: -(1-ε) log σ(βd) - ε log σ(-βd).

    PIVOT eq. 1 (DPO); β = 0.1 and ε = 0 there.
    """
    logits = beta * (chosen - rejected)
    return -(1 - label_smoothing) * jax.nn.log_sigmoid(logits) - label_smoothing * jax.nn.log_sigmoid(-logits)


def bco(chosen: Any, rejected: Any, beta: float, delta: Any) -> Any:
    """BCO on a pair: -log σ(β r_c - δ) - log σ(-(β r_r - δ)), δ the running mean of rewards β r.

    InternVL's MPO quality loss.
    """
    return -jax.nn.log_sigmoid(beta * chosen - delta) - jax.nn.log_sigmoid(-(beta * rejected - delta))


@dataclass(frozen=True)
class Mixture:
    """Weights of the parts: sigmoid * DPO + bco * BCO + nll * (token-mean NLL of the chosen answer)."""

    sigmoid: float = 1.0
    bco: float = 0.0
    nll: float = 0.0


OBJECTIVES = {
    # DPO with PIVOT's optional γ * NLL(chosen)
    "dpo": lambda section: Mixture(sigmoid=1.0, nll=section["gamma"]),
    # InternVL: 0.8 preference + 0.2 quality + 1.0 generation
    "mpo": lambda section: Mixture(sigmoid=0.8, bco=0.2, nll=1.0),
}


def mixture(section: Any) -> Mixture:
    """``config.objective`` → weights.

    Raises:
      UserError: the name is no preference objective.
    """
    name = section["name"]
    if name not in OBJECTIVES:
        raise UserError(f"objective.name: '{name}' is no preference objective; there are: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name](section)


@struct.dataclass
class RewardMean:
    """Running mean δ of all rewards seen, chosen and rejected; BCO's state.

    A step uses the mean of the steps before it, so that accumulation does not change it (InternVL's code includes
    the current micro-batch). At the first step, where every reward is 0, the two agree.
    """

    mean: Any
    count: Any

    @classmethod
    def zero(cls) -> RewardMean:
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    def update(self, total: Any, count: Any) -> RewardMean:
        """Adds ``count`` rewards that sum to ``total``."""
        seen = self.count + count
        return RewardMean(self.mean + (total - count * self.mean) / jnp.maximum(seen, 1.0), seen)
