"""Supervised fine-tuning."""

from __future__ import annotations

from typing import Any

from pivot_jax.objectives.terms import Term, weighted


def nll(logps: Any, weights: Any) -> Term:
    """Negative log-likelihood per scored token: Σ -log p(token) * weight over Σ weight.

    PIVOT eq. 1 (SFT), with the mean over all scored tokens of the global batch.

    Args:
      logps, weights: float32 [b, t]; weight 0 where there is no target.
    """
    return weighted(-logps, weights)
