"""Matmul FLOPs of a traced function, counted from its jaxpr: what really runs, recomputation and padding included."""

from __future__ import annotations

import math
from typing import Any


def traced_flops(jaxpr: Any) -> float:
    """FLOPs of all devices. A multiply-add is 2; a loop counts as often as it runs (``while``: once).

    Kernels count what their cost estimate says; of a condition's branches the dearest counts.
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
