"""Evaluation of the policy on held-out prompts while it trains, by the run's own rewards."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from pivot_jax.data.loading.prompts import PromptLoader, build_prompts
from pivot_jax.errors import UserError
from pivot_jax.rl.collection import asked_prompts, score_responses, texts_of
from pivot_jax.rl.completions import Answered
from pivot_jax.rl.parts import Parts
from pivot_jax.train.session import Hook

NAME = "heldout"
SEED = 1 << 30  # a rollout number that training never reaches


def heldout_hooks(parts: Parts) -> tuple[Hook, ...]:
    """The evaluation of ``rl.heldout``, logged as ``eval/heldout/*``; none without prompts.

    Raises:
      UserError: prompts that cannot be read, or lack a column that a reward reads; a run of several processes.
    """
    config = parts.setup.config
    section = config.rl.heldout
    if not section.sources:
        return ()
    if jax.process_count() > 1:
        raise UserError("rl.heldout.sources: a run of several processes cannot evaluate; remove them")
    size = parts.setup.loader.batch_size
    loader = build_prompts(config, parts.processor, sources=section.sources, batch_size=size)
    parts.rewards.check(loader.columns())
    return (Hook(NAME, partial(_evaluate, parts, loader)),)


def _evaluate(parts: Parts, loader: PromptLoader, step: int, params: Any) -> dict[str, float]:
    section = parts.setup.config.rl.heldout
    sampling = replace(parts.sampling, temperature=section.temperature, top_p=section.top_p)
    parts.update(params, step)
    totals, lengths, truncated, answered = [], [], [], []
    rewards: dict[str, list[np.ndarray]] = {label: [] for label in parts.rewards.labels}
    for prompts in loader.ordered():
        seed = (parts.setup.config.seed, SEED)
        rollouts = parts.engine.generate(asked_prompts(prompts), section.responses, sampling, seed)
        texts = texts_of(parts.processor, rollouts)
        groups, scores = score_responses(parts.rewards, prompts, rollouts, texts)
        totals.append(scores.total)
        for label, values in scores.rewards.items():
            rewards[label].append(values)
        responses = [one for own in rollouts.responses for one in own]
        lengths += [len(one.tokens) for one in responses]
        truncated += [one.finish == "length" for one in responses]
        answered += [Answered(*pair) for pair in zip(groups, texts, strict=True)]
    if not lengths:
        raise UserError("rl.heldout.sources: no prompts; name a source that has some, or remove it")
    parts.records.write_heldout(step, answered)
    found = {
        "reward": _mean(totals),
        "mean_length": float(np.mean(lengths)),
        "clipped_ratio": float(np.mean(truncated)),
    }
    return found | {f"rewards/{label}": _mean(values) for label, values in rewards.items()}


def _mean(values: list[np.ndarray]) -> float:
    joined = np.concatenate(values)
    known = joined[np.isfinite(joined)]
    return float(known.mean()) if known.size else float("nan")
