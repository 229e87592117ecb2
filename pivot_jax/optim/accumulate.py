"""Loss, gradients and metrics of a batch, in micro-batches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.objectives.base import Objective
from pivot_jax.optim.partition import merge


def loss_and_gradients(
    objective: Objective, trained: Any, frozen: Any, batch: Any, accumulate: int, memory: Any, reference: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """(loss, float32 gradients of ``trained``, {metric: Term}) of the whole batch.

    ``accumulate`` micro-batches run one after the other. Every term is divided by the whole batch's weight, so the
    result does not depend on their number.
    """
    totals = objective.totals(batch)

    def gradients(micro: Any) -> tuple[Any, Any, dict[str, Any]]:
        def loss(trained: Any) -> tuple[Any, dict[str, Any]]:
            return objective.loss(merge(trained, frozen), micro, totals, memory, reference)

        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(trained)
        return value, grads, metrics

    if accumulate == 1:
        return gradients(batch)

    def add(total: Any, micro: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradients(micro)), None

    micros = jax.tree.map(lambda x: _split(x, accumulate), batch)
    first = jax.tree.map(lambda x: x[0], micros)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradients, first))
    total, _ = jax.lax.scan(add, zero, micros)
    return total


def _split(x: Any, parts: int) -> Any:
    """[b, ...] → [parts, b / parts, ...]; micro-batch i has rows i, i + parts, ..., so no row changes device."""
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)
