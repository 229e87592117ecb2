"""All objectives by name, and a run's objective from its config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pivot_jax.errors import UserError, suggest
from pivot_jax.objectives.advantages import ADVANTAGES
from pivot_jax.objectives.base import BatchKind, Objective
from pivot_jax.objectives.contrastive import build_contrastive
from pivot_jax.objectives.policy import build_policy
from pivot_jax.objectives.preference import build_preference
from pivot_jax.objectives.preference_losses import PRESETS, takes_single_answers, terms_of
from pivot_jax.objectives.presets import PRESETS as ALGORITHMS
from pivot_jax.objectives.presets import algorithm_of
from pivot_jax.objectives.sft import build_sft


class Entry(NamedTuple):
    """An objective: the kind of batch that it reads, and (module, config, banned ids) → Objective."""

    kind: BatchKind
    build: Callable[[Any, Any, tuple[int, ...]], Objective]


OBJECTIVES = {
    "contrastive": Entry("contrastive", lambda module, config, banned: build_contrastive(module)),
    "sft": Entry("sft", lambda module, config, banned: build_sft(module)),
    **dict.fromkeys(
        PRESETS, Entry("preference", lambda module, config, banned: build_preference(module, config.objective))
    ),
    "policy": Entry("policy", lambda module, config, banned: build_policy(module, config.rl, banned)),
}


def batch_kind(config: Any) -> BatchKind:
    """The kind of batch that ``config.objective`` reads; ``contrastive`` trains a ``SigLIP``, others an ``MLLM``.

    Raises:
      UserError: unknown name or, of a preference objective, as :func:`preference_losses.terms_of`.
    """
    kind = _entry(config.objective.name).kind
    return "unpaired" if kind == "preference" and takes_single_answers(terms_of(config.objective)) else kind


def has_value_head(config: Any) -> bool:
    """Whether the model that ``config`` trains has a value head (``models.value_head``).

    Raises:
      UserError: no such objective or algorithm.
    """
    if batch_kind(config) != "policy":
        return False
    _check_algorithm(config.objective.name, config.rl.algorithm)
    return ADVANTAGES[algorithm_of(config.rl).advantage].values


def build_objective(module: Any, config: Any, banned_ids: tuple[int, ...] = ()) -> Objective:
    """Objective of ``config.objective`` for a ``SigLIP`` (contrastive) or an ``MLLM``.

    Args:
      banned_ids: tokens that are never sampled (``policy``).

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
    _check_algorithm(section.name, config.rl.algorithm)
    if entry.kind == "contrastive" and config.data.packing > 1:
        raise UserError(
            f"data.packing: {config.data.packing}, but the captions of objective.name={section.name!r} are not packed; "
            "set it to 1"
        )
    objective = entry.build(module, config, banned_ids)
    if objective.reference == "stored" and not config.data.tokenize_first:
        raise UserError(
            "data.tokenize_first: false, but stored reference log-probs are laid out by the lengths of all answers; "
            "set objective.reference=step, or data.tokenize_first to true"
        )
    if objective.couples_rows and config.train.accumulate != 1:
        terms = f" with objective.terms={section.terms!r}" if section.terms else ""
        raise UserError(
            f"train.accumulate: {config.train.accumulate}, but objective.name={section.name!r}{terms} compares each "
            "row with the whole batch, which micro-batches would split; set train.accumulate=1"
        )
    return objective


def _check_algorithm(name: str, algorithm: str) -> None:
    """``objective.name`` alone says what is trained for; ``rl.algorithm`` says how, for online RL."""
    if algorithm and name != "policy":
        raise UserError(
            f"rl.algorithm: {algorithm!r}, but objective.name={name!r} is not online RL; set objective.name='policy', "
            "or remove rl.algorithm"
        )
    if name == "policy" and not algorithm:
        raise UserError(
            f"rl.algorithm: empty, but objective.name='policy' needs one; set it (algorithms: {', '.join(ALGORITHMS)})"
        )


def _entry(name: str) -> Entry:
    if name not in OBJECTIVES:
        raise UserError(
            f"objective.name: {name!r} is not allowed (allowed: {', '.join(OBJECTIVES)}){suggest(name, OBJECTIVES)}"
        )
    return OBJECTIVES[name]
