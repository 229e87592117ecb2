"""What a training step needs to know of an objective, for SFT, preference pairs and stage 0 alike.

Every loss term and metric is a pair (sum, weight). Weights depend on the batch alone, never on parameters. So the
division can happen once, after all micro-batches and devices are added up, and neither accumulation nor sharding
changes a result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct

Params = dict[str, Any]


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


class Objective(NamedTuple):
    """An objective in the form that accumulation needs.

    Attributes:
      totals: batch → the denominators of its terms, from the batch alone (all micro-batches together).
      loss: (params, micro-batch, totals, memory, reference) → (its share of the loss, {metric: Term}).
        The shares of all micro-batches add up to the loss. ``reference`` is the frozen reference model's
        parameters or None.
      memory: the objective's own state at step 0 (BCO's reward mean), or None.
      remember: (memory, {metric: Term} of the whole batch) → memory of the next step.
    """

    totals: Callable[[Any], dict[str, Any]]
    loss: Callable[[Params, Any, dict[str, Any], Any, Params | None], tuple[Any, dict[str, Term]]]
    memory: Any = None
    remember: Callable[[Any, dict[str, Term]], Any] = lambda memory, metrics: memory
