"""Correction between the sampler's and the trainer's log-probs, and how far they are apart. On the host.

Letters: N responses, t tokens. w = exp(ℓ_old - ℓ_samp) is the ratio of the trainer's to the sampler's probability. It
multiplies the policy loss, not the KL term, and has no gradient. Its source is Yao et al. 2025, "Your efficient RL
framework secretly brings you off-policy RL training"; masking is IcePop's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pivot_jax.objectives.algorithm import Algorithm

Array = np.ndarray
# level: "token": each token's own w; "sequence": the product over the response; "geometric": its geometric mean, which
# does not spread with the length. A truncated weight is set to the nearest bound, a masked one to 0.
MODES = (
    "none",
    "token_truncate",
    "token_mask",
    "sequence_truncate",
    "sequence_mask",
    "geometric_truncate",
    "geometric_mask",
)


class Correction(NamedTuple):
    """``weights``: float32 [N, t], 0 at padding, or None where nothing is corrected; ``metrics`` as TRL names them."""

    weights: Array | None
    metrics: dict[str, float]


def correction(algorithm: Algorithm, old_logps: Array, sampling_logps: Array, mask: Array) -> Correction:
    """Weights of ``algorithm.importance``, and the mismatch.

    A token whose log-prob the sampler did not report (NaN) counts as equal. With "sequence" TRL's weight is the product
    over all tokens: at 2,000 tokens a mean difference of 0.001 is already a factor e², so prefer "token" or "geometric"
    for long responses.

    Args:
      old_logps: float [N, t], the trainer's before the update. sampling_logps: the sampler's. mask: bool [N, t].
    """
    known = mask & np.isfinite(sampling_logps)
    differences = np.where(known, old_logps - np.where(known, sampling_logps, 0.0), 0.0).astype(np.float64)
    apart = np.abs(differences[known])
    metrics = {
        "sampling/sampling_logp_difference/mean": float(apart.mean()) if apart.size else 0.0,
        "sampling/sampling_logp_difference/max": float(apart.max(initial=0.0)),
    }
    if algorithm.importance == "none":
        return Correction(None, metrics)
    level, action = algorithm.importance.split("_")
    if level != "token":
        total = differences.sum(1, keepdims=True)
        differences = total if level == "sequence" else total / np.maximum(mask.sum(1, keepdims=True), 1)
    ratios = np.exp(differences)
    low, high = algorithm.importance_low, algorithm.importance_high
    inside = (ratios >= low) & (ratios <= high)
    weights: Any = np.clip(ratios, low, high) if action == "truncate" else np.where(inside, ratios, 0.0)
    used = weights[mask] if level == "token" else weights[mask.any(1)]
    for name, value in (("min", np.min), ("mean", np.mean), ("max", np.max)):
        metrics[f"sampling/importance_sampling_ratio/{name}"] = float(value(used)) if used.size else 0.0
    return Correction(np.where(mask, weights, 0.0).astype(np.float32), metrics)
