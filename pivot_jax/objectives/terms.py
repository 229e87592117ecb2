"""Losses as sums with weights.

Every loss term and metric is a pair (sum, weight). Weights depend on the batch alone, never on parameters. So the
division can happen once, after all micro-batches and devices are added up, and neither accumulation nor sharding
changes a result.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Term:
    """Something to be averaged: ``mean`` = sum / weight."""

    sum: Any
    weight: Any

    def mean(self) -> Any:
        """sum / weight, and 0 where the weight is 0 (a batch without such rows)."""
        return self.sum / jnp.maximum(self.weight, 1e-20)


def weighted(values: Any, weights: Any) -> Term:
    """Σ values * weights over Σ weights."""
    return Term(jnp.sum(values * weights), jnp.sum(weights))
