"""The compiled training step: logs its compilations, counts its FLOPs."""

from __future__ import annotations

import logging
from typing import Any

import jax

from pivot_jax.models.flops import traced_flops
from pivot_jax.parallel.hosts import is_first

log = logging.getLogger(__name__)


class Program:
    """A jitted ``(state, batch, reference) -> (state, metrics)``, compiled once per batch shape.

    Each compilation is logged; a second one for the same shapes is a warning, because it costs time in every run.
    """

    def __init__(self, jitted: Any, done: int = 0):
        """``done``: steps before the first call, for the log."""
        self._jitted, self._step = jitted, done
        self._programs = 0
        self._compiled = set[Any]()
        self._flops: dict[Any, float] = {}  # by the shapes of the batch

    def flops(self, state: Any, batch: Any, reference: Any) -> float:
        """FLOPs of a step on this batch, of all devices, recomputation and padding included.

        Call it before the step, which donates ``state``. The trace is made once per shape, and the call compiles from
        the same one.
        """
        shapes = _shapes(batch)
        if shapes not in self._flops:
            self._flops[shapes] = traced_flops(self._jitted.trace(state, batch, reference).jaxpr)
        return self._flops[shapes]

    def __call__(self, state: Any, batch: Any, reference: Any) -> tuple[Any, dict[str, Any]]:
        """Queues the step on the devices; returns before it is computed."""
        result = self._jitted(state, batch, reference)
        self._step += 1
        programs = self._jitted._cache_size()
        if programs > self._programs:
            shapes = _shapes(batch)
            again = shapes in self._compiled
            if is_first():
                log.log(logging.WARNING if again else logging.INFO, "step %d: compiled %sfor %d rows of %d tokens",
                        self._step, "again " if again else "", *batch.tokens.shape)  # fmt: skip
            self._compiled.add(shapes)
            self._programs = programs
        return result


def _shapes(batch: Any) -> tuple[Any, ...]:
    return tuple(leaf.shape for leaf in jax.tree.leaves(batch))
