"""All objectives by name, and a run's objective from its config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pivot_jax.config.check import suggest
from pivot_jax.errors import UserError
from pivot_jax.objectives.base import BatchKind, Objective
from pivot_jax.objectives.contrastive import build_contrastive
from pivot_jax.objectives.preference import build_preference
from pivot_jax.objectives.preference_losses import PRESETS
from pivot_jax.objectives.sft import build_sft


class Entry(NamedTuple):
    """An objective: the kind of batch that it reads, and (module, config.objective) → Objective."""

    kind: BatchKind
    build: Callable[[Any, Any], Objective]


OBJECTIVES = {
    "contrastive": Entry("contrastive", lambda module, section: build_contrastive(module)),
    "sft": Entry("sft", lambda module, section: build_sft(module)),
    **dict.fromkeys(PRESETS, Entry("preference", build_preference)),
}


def batch_kind(config: Any) -> BatchKind:
    """The kind of batch that ``config.objective.name`` reads; ``contrastive`` trains a ``SigLIP``, others an ``MLLM``.

    Raises:
      UserError: unknown name.
    """
    return _entry(config.objective.name).kind


def build_objective(module: Any, config: Any) -> Objective:
    """Objective of ``config.objective`` for a ``SigLIP`` (contrastive) or an ``MLLM``.

    Raises:
      UserError: unknown name or term, or settings that exclude each other.
    """
    section = config.objective
    entry = _entry(section.name)
    if section.terms and entry.kind != "preference":
        raise UserError(
            f"objective.terms: {section.terms!r}, but objective.name={section.name!r} is not a preference objective "
            "and has no terms; remove them, or set objective.name=preference"
        )
    if entry.kind == "contrastive" and config.data.packing > 1:
        raise UserError(
            f"data.packing: {config.data.packing}, but the captions of objective.name={section.name!r} are not packed; "
            "set it to 1"
        )
    objective = entry.build(module, section)
    if objective.couples_rows and config.train.accumulate != 1:
        terms = f" with objective.terms={section.terms!r}" if section.terms else ""
        raise UserError(
            f"train.accumulate: {config.train.accumulate}, but objective.name={section.name!r}{terms} compares each "
            "row with the whole batch, which micro-batches would split; set train.accumulate=1"
        )
    return objective


def _entry(name: str) -> Entry:
    if name not in OBJECTIVES:
        raise UserError(
            f"objective.name: {name!r} is not allowed (allowed: {', '.join(OBJECTIVES)}){suggest(name, OBJECTIVES)}"
        )
    return OBJECTIVES[name]
