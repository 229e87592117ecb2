"""Evaluation of the policy on held-out prompts while it trains, by the run's own rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from pivot_jax.data.loading.prompts import PromptLoader, PromptRows, build_prompts
from pivot_jax.errors import UserError
from pivot_jax.parallel.processes import Processes
from pivot_jax.rl.collection import asked_prompts, score_responses, texts_of
from pivot_jax.rl.completions import Answered, completion_lines
from pivot_jax.rl.parts import Parts
from pivot_jax.train.session import Hook

NAME = "heldout"
SEED = 1 << 30  # a rollout number that training never reaches


def heldout_hooks(parts: Parts) -> tuple[Hook, ...]:
    """The evaluation of ``rl.heldout``, logged as ``eval/heldout/*``; none without prompts.

    Several processes share the prompts of each batch, as in training; the first one writes all responses.

    Raises:
      UserError: prompts that cannot be read, or lack a column that a reward reads.
    """
    config = parts.setup.config
    section = config.rl.heldout
    if not section.sources:
        return ()
    size, process = parts.setup.loader.batch_size, (jax.process_index(), jax.process_count())
    loader = build_prompts(config, parts.processor, process=process, sources=section.sources, batch_size=size)
    parts.rewards.check(loader.columns())
    return (Hook(NAME, partial(_evaluate, parts, loader)),)


class _Batch(NamedTuple):
    """A process's responses to its part of a batch of prompts."""

    total: np.ndarray
    rewards: Mapping[str, np.ndarray]
    lengths: list[int]
    truncated: list[bool]
    lines: list[dict[str, Any]]


def _evaluate(parts: Parts, loader: PromptLoader, step: int, params: Any) -> dict[str, float]:
    parts.update(params, step)
    processes = Processes(parts.setup.mesh)
    found = [own for prompts in loader.ordered() for own in processes.gather(_answered(parts, prompts))]
    lengths = [length for own in found for length in own.lengths]
    if not lengths:
        raise UserError("rl.heldout.sources: no prompts; name a source that has some, or remove it")
    processes.from_first(lambda: parts.records.write_heldout(step, [line for own in found for line in own.lines]))
    metrics = {
        "reward": _mean([own.total for own in found]),
        "mean_length": float(np.mean(lengths)),
        "clipped_ratio": float(np.mean([one for own in found for one in own.truncated])),
    }
    return metrics | {
        f"rewards/{label}": _mean([own.rewards[label] for own in found]) for label in parts.rewards.labels
    }


def _answered(parts: Parts, prompts: PromptRows) -> _Batch:
    """Answers and rewards of this process's prompts."""
    section = parts.setup.config.rl.heldout
    sampling = replace(parts.sampling, temperature=section.temperature, top_p=section.top_p)
    seed = (parts.setup.config.seed, SEED)
    rollouts = parts.engine.generate(asked_prompts(prompts), section.responses, sampling, seed)
    texts = texts_of(parts.processor, rollouts)
    groups, scores = score_responses(parts.rewards, prompts, rollouts, texts)
    responses = [one for own in rollouts.responses for one in own]
    answered = [Answered(*pair) for pair in zip(groups, texts, strict=True)]
    return _Batch(
        scores.total,
        scores.rewards,
        [len(one.tokens) for one in responses],
        [one.finish == "length" for one in responses],
        completion_lines(answered, parts.records.images),
    )


def _mean(values: list[np.ndarray]) -> float:
    joined = np.concatenate(values)
    known = joined[np.isfinite(joined)]
    return float(known.mean()) if known.size else float("nan")
