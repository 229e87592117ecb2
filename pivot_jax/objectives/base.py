"""The parts of an objective that a training step needs, for SFT, preference pairs, contrastive pretraining
and online RL alike.

Every loss term and metric is a pair (sum, weight). Weights depend on the batch alone, never on parameters. The division
can therefore happen once, after all micro-batches and devices are added up, and neither accumulation nor sharding
changes a result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from flax import struct

Params = dict[str, Any]
# The ``kind`` of ``build_loader``; "policy" are groups of sampled responses, which the online RL loop makes.
BatchKind = Literal["contrastive", "sft", "preference", "unpaired", "policy"]


@struct.dataclass
class Term:
    """A mean in two parts: ``mean`` = sum / weight."""

    sum: Any
    weight: Any

    def mean(self) -> Any:
        """sum / weight, and 0 where the weight is 0 (a batch without such rows)."""
        return self.sum / jnp.maximum(self.weight, 1e-20)


def weighted(values: Any, weights: Any) -> Term:
    """Σ values * weights over Σ weights."""
    return Term(jnp.sum(values * weights), jnp.sum(weights))


@dataclass(frozen=True)
class Objective:
    """The objective of a run, in the form that accumulation needs.

    Attributes:
      kind: the kind of batch that it reads.
      totals: batch → the denominators of its terms, from the batch alone (all micro-batches together).
      loss: (params, micro-batch, totals, memory, reference) → (its share of the loss, {metric: Term}).
        The shares of all micro-batches add up to the loss. ``reference`` is the frozen reference model's
        parameters or None.
      reference: None if it needs no reference model; else where the reference log-probs come from: ``stored`` in the
        batch (``batch.ref_logps``), or computed in each ``step`` from the reference parameters.
      couples_rows: a loss compares the rows of a batch with each other, so the batch cannot be split into
        micro-batches.
      memory: the objective's own state at step 0 (BCO's reward mean), or None.
      remember: (memory, {metric: Term} of the whole batch) → memory of the next step.
    """

    kind: BatchKind
    totals: Callable[[Any], dict[str, Any]]
    loss: Callable[[Params, Any, dict[str, Any], Any, Params | None], tuple[Any, dict[str, Term]]]
    reference: Literal["stored", "step"] | None = None
    couples_rows: bool = False
    memory: Any = None
    remember: Callable[[Any, dict[str, Term]], Any] = lambda memory, metrics: memory
