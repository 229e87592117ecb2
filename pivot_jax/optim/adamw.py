"""AdamW with clipping, a schedule, and a peak learning rate per parameter (optax)."""

from __future__ import annotations

from typing import Any

import jax
import optax
from jax.sharding import Mesh

from pivot_jax import rules
from pivot_jax.optim import schedule
from pivot_jax.parallel.mesh import replicated

# Norm scales and biases are not decayed, as in transformers' Trainer.
_DECAYED: rules.Rules = [(r".*/(scale|bias)|logit_(scale|bias)", False), (r".*", True)]


def build_optimizer(section: Any, rates: dict[str, float | str], total_steps: int) -> optax.GradientTransformation:
    """Optimizer of ``config.optimizer`` for the trained tree; the step clips, because it logs the norm.

    Args:
      rates: path → peak learning rate, from ``partition.peak_rates``.
    """
    curve = schedule.multiplier(section, total_steps)
    parts = [optax.scale_by_adam(section["b1"], section["b2"], section["eps"])]
    if section["weight_decay"]:
        parts.append(optax.add_decayed_weights(section["weight_decay"], lambda tree: rules.map_rules(_DECAYED, tree)))
    parts += [_scale_by_path(rates), optax.scale_by_schedule(lambda step: -curve(step))]
    return optax.chain(*parts)


def _scale_by_path(rates: dict[str, float | str]) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        flat = rules.flatten(updates)
        scaled = {path: jax.tree.map(lambda x, rate=rates[path]: x * rate, leaf) for path, leaf in flat.items()}
        return rules.unflatten(scaled), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def state_shardings(tx: optax.GradientTransformation, trained: Any, shardings: Any, mesh: Mesh) -> Any:
    """Moments are sharded like their parameters; counters are replicated."""
    abstract = jax.eval_shape(tx.init, trained)
    return optax.tree.map_params(
        tx,
        lambda _, sharding: sharding,
        abstract,
        shardings,
        transform_non_params=lambda _: replicated(mesh),
    )
