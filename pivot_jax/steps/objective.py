"""What a training step needs to know of an objective, for SFT, preference pairs and stage 0 alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pivot_jax.objectives.terms import Term

Params = dict[str, Any]


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
