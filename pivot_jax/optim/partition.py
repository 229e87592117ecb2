"""Which parameters are trained, at what learning rate, and the split of a tree into trained and frozen.

Rules are ``config.optimizer.rules``: ``[(regex, peak learning rate or "frozen"), ...]``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from pivot_jax import rules
from pivot_jax.errors import UserError

FROZEN = "frozen"
# What no stage of an MLLM computes: the encoder's pooling head; of SigLIP and CLIP also last block and closing norm.
UNUSED_BY_MLLM = (r"(vision|second)/final/.*", FROZEN)


def peak_rates(rule_list: rules.Rules, params: Any) -> dict[str, float | str]:
    """Path → peak learning rate, or ``"frozen"``.

    Raises:
      UserError: a path without a rule, a rule without a path (a misspelt one would silently train what should be
        frozen), or nothing to train.
    """
    paths = rules.flatten(params)
    for pattern, _ in rule_list:
        if not any(re.fullmatch(pattern, path) for path in paths):
            rooms = ", ".join(sorted({path.split("/")[0] for path in paths}))
            raise UserError(
                f"optimizer.rules: '{pattern}' matches no parameter (they are in: {rooms}); mend or remove it"
            )
    try:
        rates = {path: rules.match(rule_list, path, "optimizer.rules") for path in paths}
    except ValueError as error:
        raise UserError(str(error)) from error
    if all(rate == FROZEN for rate in rates.values()):
        raise UserError("optimizer.rules: every parameter is frozen; give at least one a learning rate")
    return rates


def split(params: Any, rates: dict[str, float | str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tree → (trained, frozen), two nested dicts without common leaves."""
    flat = rules.flatten(params)
    trained = {path: leaf for path, leaf in flat.items() if rates[path] != FROZEN}
    frozen = {path: leaf for path, leaf in flat.items() if rates[path] == FROZEN}
    return rules.unflatten(trained), rules.unflatten(frozen)


def merge(trained: Any, frozen: Any) -> dict[str, Any]:
    """Inverse of :func:`split`."""
    return rules.unflatten(rules.flatten(trained) | rules.flatten(frozen))


def table(params: Any, rates: dict[str, float | str]) -> list[dict[str, Any]]:
    """Rows {group, parameters, rate} for the run's start: parameters added up by room and learning rate."""
    counts: dict[tuple[str, float | str], int] = defaultdict(int)
    for path, leaf in rules.flatten(params).items():
        parts = path.split("/")
        group = "/".join(parts[:2]) if parts[0] in ("vision", "second", "projector") and len(parts) > 1 else parts[0]
        counts[(group, rates[path])] += leaf.size
    return [{"group": group, "parameters": n, "rate": rate} for (group, rate), n in counts.items()]
