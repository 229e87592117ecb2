"""Which parameters are trained, at what learning rate, and the split of a tree into trained and frozen.

Rules are ``config.optimizer.rules``: ``[(regex, peak learning rate or "frozen"), ...]``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.models import lora
from pivot_jax.models.value_head import is_value_head

FROZEN = "frozen"
# What no stage of an MLLM computes: the encoder's pooling head, and the last block and closing norm of SigLIP and CLIP.
UNUSED_BY_MLLM = (r"(vision|second)/final/.*", FROZEN)


LORA, NONE, FULL = "lora", "none", "full"  # values of config.lora.targets, besides ranks


def peak_rates(rule_list: rules.Rules, params: Any) -> dict[str, float | str]:
    """Path → peak learning rate, or ``"frozen"``.

    Raises:
      UserError: a path without a rule, a rule without a path (a misspelt one would silently train what should be
        frozen), or nothing to train.
    """
    rates = _values("optimizer.rules", rule_list, rules.flatten(params))
    if all(rate == FROZEN for rate in rates.values()):
        raise UserError("optimizer.rules: every parameter is frozen; give at least one a learning rate")
    return rates


def _values(key: str, rule_list: rules.Rules, paths: Iterable[str]) -> dict[str, Any]:
    for pattern, _ in rule_list:
        if not any(re.fullmatch(pattern, path) for path in paths):
            parts = ", ".join(sorted({path.split("/")[0] for path in paths}))
            raise UserError(f"{key}: '{pattern}' matches no parameter (they are in: {parts}); fix or remove it")
    try:
        return {path: rules.match(rule_list, path, key) for path in paths}
    except ValueError as error:
        raise UserError(str(error)) from error


def lora_ranks(section: Any, params: Any, rates: dict[str, float | str]) -> tuple[lora.Ranks, dict[str, float | str]]:
    """Kernel → rank of its adapter under ``config.lora``, and the learning rates with the adapters.

    Every parameter that the targets do not call "full" is then frozen, but for a value head, which keeps its rates and
    takes no adapter. An adapter has its kernel's rate; its scale is a constant.

    Raises:
      UserError: a rank for a parameter that is not a linear layer's kernel, a rule without a path, or nothing to train.
    """
    shapes = {path: leaf.shape for path, leaf in rules.flatten(params).items()}
    targets = _values("lora.targets", section["targets"], shapes)
    ranks: lora.Ranks = {}
    changed: dict[str, float | str] = {}
    for path, target in targets.items():
        if is_value_head(path):
            changed[path] = rates[path]
            continue
        changed[path] = rates[path] if target == FULL else FROZEN
        if target in (NONE, FULL) or rates[path] == FROZEN:
            continue
        if not lora.is_linear(path, shapes[path]):
            raise UserError(
                f"lora.targets: '{path}' {list(shapes[path])} is not a linear layer's kernel and takes no adapter; "
                "give it 'none' or 'full' in a rule before this one"
            )
        ranks[path] = section["rank"] if target == LORA else target
        changed |= {lora.beside(path, leaf): rates[path] for leaf in (lora.A, lora.B)}
        changed[lora.beside(path, lora.SCALE)] = FROZEN
    if all(rate == FROZEN for path, rate in changed.items() if not is_value_head(path)):
        raise UserError("lora.targets: nothing is left to train; target a kernel that optimizer.rules do not freeze")
    return ranks, changed


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
    """Rows {group, parameters, rate} for the run's start: parameters added up by part of the model and learning rate.

    Adapters are groups of their own, by rank. Their scales are constants and do not count.
    """
    counts: dict[tuple[str, float | str], int] = defaultdict(int)
    flat = rules.flatten(params)
    for path, leaf in flat.items():
        if path.endswith(f"/{lora.SCALE}"):
            continue
        parts = path.split("/")
        group = "/".join(parts[:2]) if parts[0] in ("vision", "second", "projector") and len(parts) > 1 else parts[0]
        if lora.is_adapter(path):
            group += f" LoRA, rank {flat[lora.beside(lora.kernel_of(path), lora.A)].shape[-1]}"
        counts[(group, rates[path])] += leaf.size
    return [{"group": group, "parameters": n, "rate": rate} for (group, rate), n in counts.items()]
