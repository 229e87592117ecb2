"""Estimators of KL(π ‖ π_ref) from log-probs of sampled tokens.

With d = log π_ref - log π: k1 = -d, k2 = ½ d², k3 = e^d - d - 1 (Schulman 2020, "Approximating KL divergence"). Their
values are KL(π ‖ π_ref) in expectation (k2: nearly), but their gradients differ: in a loss, that of k1 is 0 in
expectation, that of k2 is the gradient of KL(π ‖ π_ref), that of k3 is the gradient of KL(π_ref ‖ π).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.objectives.algorithm import Algorithm

BOUND = 20.0  # of a log-ratio before exp: its gradient stays finite
CLAMP = 10.0  # nats


def k1(logps: Any, ref_logps: Any, log_ratio: Any) -> Any:
    """log π - log π_ref; can be negative."""
    return logps - ref_logps


def k2(logps: Any, ref_logps: Any, log_ratio: Any) -> Any:
    """½ (log π - log π_ref)²."""
    return 0.5 * (logps - ref_logps) ** 2


def k3(logps: Any, ref_logps: Any, log_ratio: Any) -> Any:
    """e^d - d - 1 with d = log π_ref - log π; never negative (GRPO: Shao et al. 2024, eq. 4)."""
    d = jnp.clip(ref_logps - logps, -BOUND, BOUND)
    return jnp.exp(d) - d - 1


def k3_corrected(logps: Any, ref_logps: Any, log_ratio: Any) -> Any:
    """ρ k3 with the gradient through the ratio ρ: unbiased off policy, and with the gradient of KL(π ‖ π_ref).

    DeepSeek-V3.2 (2025); TRL's ``use_bias_correction_kl``, its default.
    """
    return jnp.exp(jnp.clip(log_ratio, -BOUND, BOUND)) * k3(logps, ref_logps, log_ratio)


def _straight_through(value: Callable[..., Any]) -> Callable[..., Any]:
    def estimate(logps: Any, ref_logps: Any, log_ratio: Any) -> Any:
        surrogate = k2(logps, ref_logps, log_ratio)
        return surrogate + jax.lax.stop_gradient(value(logps, ref_logps, log_ratio) - surrogate)

    return estimate


KL: dict[str, Callable[[Any, Any, Any], Any]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "k3_corrected": k3_corrected,
    # verl: the value of one, the gradient of k2
    "k1+": _straight_through(k1),
    "k3+": _straight_through(k3),
}


def token_kl(algorithm: Algorithm, logps: Any, ref_logps: Any, log_ratio: Any) -> Any:
    """The estimate per token; with ``kl_clamp`` "token" within ±10 (verl), where a clamped one has no gradient.

    Args:
      logps, ref_logps: float32 [...] of policy and reference.
      log_ratio: log π - log π_old, or its level of the ratio, broadcastable.
    """
    values = KL[algorithm.kl](logps, ref_logps, log_ratio)
    return jnp.clip(values, -CLAMP, CLAMP) if algorithm.kl_clamp == "token" else values
