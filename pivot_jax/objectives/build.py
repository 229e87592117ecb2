"""A run's objective from its config."""

from __future__ import annotations

from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.objectives import contrastive, preference, sft
from pivot_jax.objectives.base import Objective

STAGES = {
    "contrastive": lambda model, config: contrastive.build(model),
    "sft": lambda model, config: sft.build(model),
    "preference": lambda model, config: preference.build(model, config.objective),
}


def build(model: Any, config: Any) -> Objective:
    """Objective of ``config.stage`` for a ``SigLIP`` (stage 0) or an ``MLLM``.

    Raises:
      UserError: unknown stage, or settings that exclude each other.
    """
    if config.stage not in STAGES:
        raise UserError(f"stage: '{config.stage}' is unknown; there are: {', '.join(STAGES)}")
    if config.stage == "contrastive" and config.train.accumulate != 1:
        raise UserError(
            "train.accumulate must be 1 in a contrastive stage: each image is compared with the whole batch"
        )
    return STAGES[config.stage](model, config)
