"""Matmul FLOPs by counting, for throughput and cost tables. A multiply-add is 2; padding is not counted as work.

Causal attention counts the half that is visible. Training costs three forward passes of the trained parts, and one of
the parts before the first trained one. The configs of the models count their own forward pass (``flops`` methods).
:func:`traced_flops` counts instead the operations of a traced program, recomputation and padding included.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

ENCODERS = ("vision", "second")


@dataclass(frozen=True)
class RowSize:
    """Average sizes of one row of a batch.

    Attributes:
      images: slots of images (tiles, where images are split into tiles).
      tokens: tokens of the sequence, image tokens included.
      targets: scored targets.
      patches: patches of an image, for variable-resolution encoders; 0: a full list.
    """

    images: float
    tokens: float
    targets: float
    patches: float = 0


def encoder_block(tokens: float, width: int, mlp: int, matrices: int = 2) -> float:
    """Forward of a transformer block with full attention; ``matrices`` of its MLP: 3 in a SwiGLU."""
    return 2 * tokens * (4 * width * width + matrices * width * mlp) + 4 * tokens * tokens * width


def train_step(
    parts: dict[str, float], trained: Set[str], reference_in_step: bool = False, adapted: Set[str] = frozenset()
) -> float:
    """Forward and backward of one row: 3 forwards where a part and something before it is trained.

    A frozen part after a trained one still passes gradients on (2 forwards). A frozen part before everything trained
    costs its forward only. Of an ``adapted`` part (LoRA) only the adapter is trained, whose own FLOPs are not counted.

    Args:
      parts: FLOPs of the forward pass by part, in the order of the data flow.
      reference_in_step: the reference model's forward pass runs in the step too.
    """
    total, after_trained = 0.0, False
    for name, cost in parts.items():
        own = "decoder" if name == "head" else name
        total += cost
        if after_trained and name not in ENCODERS:  # encoders are parallel: none comes after another
            total += cost  # gradient to the part's input
        if own in trained:
            total += cost  # gradient to its parameters
        after_trained |= own in trained or own in adapted
    return total + (sum(parts.values()) if reference_in_step else 0.0)


def traced_flops(jaxpr: Any) -> float:
    """FLOPs of all devices. A multiply-add is 2; a loop counts as often as it runs (``while``: once).

    Kernels count their own cost estimate; of a condition's branches the most expensive counts.
    """
    return sum(_equation(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "pallas_call":
        estimate = params["cost_estimate"]
        return float(estimate.flops) if estimate else 0.0
    inside = [traced_flops(x) for x in _jaxprs(params)]
    if name == "cond":
        return max(inside)
    times = params["length"] if name == "scan" else params["mesh"].size if name == "shard_map" else 1
    return times * sum(inside)


def _dot(equation: Any) -> float:
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    """The jaxprs among an equation's parameters; a custom derivative's rules are functions and do not count."""
    values = [x for value in params.values() for x in (value if isinstance(value, tuple | list) else (value,))]
    return [x for x in values if hasattr(x, "eqns") or hasattr(x, "jaxpr")]
