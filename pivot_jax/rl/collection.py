"""Step II, response collection; and the first half of step III, the rewards of the responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pivot_jax.data.loading.prompts import PromptRows
from pivot_jax.data.processing.images import load
from pivot_jax.data.processing.processor import Processor
from pivot_jax.objectives import perception
from pivot_jax.objectives.filters import kept
from pivot_jax.rl.groups import Group, Selection
from pivot_jax.rl.parts import Parts
from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.composition import Rewards, Scores
from pivot_jax.rollout.engine import Prompt, Rollouts

NOISY = 1 << 29  # added to the rollout's number: responses to noised images draw random numbers of their own


def collect_responses(
    parts: Parts, params: Any, version: int, prompts: PromptRows, number: int, done: Callable[[int], Any]
) -> Rollouts:
    """Samples ``rl.responses`` responses to each prompt with the policy of now.

    Args:
      params: all parameters; ``version``: the number of optimizer steps that made them.
      number: of the rollout; with the run's seed it selects the random numbers.
      done: called with the number of responses that have just been finished.

    Raises:
      UserError: a prompt that cannot be answered, or an engine that failed.
    """
    config, algorithm = parts.setup.config, parts.algorithm
    n, seed = config.rl.responses, config.seed
    parts.update(params, version)
    asked = asked_prompts(prompts)
    noisy = round(algorithm.noise_share * n)
    clean = parts.engine.generate(asked, n - noisy, parts.sampling, (seed, number), done) if noisy < n else None
    if not noisy:
        assert clean is not None
        return clean
    level = perception.noise_level(algorithm, version, parts.setup.loader.total_steps)
    asked = [_with_noise(prompt, level, np.random.default_rng([seed, number, prompt.number])) for prompt in asked]
    others = parts.engine.generate(asked, noisy, parts.sampling, (seed, NOISY + number), done)
    pairs = zip(clean.responses if clean else [()] * len(asked), others.responses, strict=True)
    return Rollouts(tuple((*first, *second) for first, second in pairs), others.version)


def asked_prompts(prompts: PromptRows) -> list[Prompt]:
    """The prompts as an engine takes them."""
    parts = zip(prompts.examples, prompts.rows, prompts.numbers, strict=True)
    return [Prompt(example, row, int(number)) for example, row, number in parts]


def _with_noise(prompt: Prompt, level: int, rng: np.random.Generator) -> Prompt:
    """The prompt with noised images, for NoisyRollout; the update trains on the clean ones."""
    images = tuple(perception.noised_image(np.asarray(load(image)), level, rng) for image in prompt.row.images)
    return replace(prompt, example=replace(prompt.example, images=images), row=replace(prompt.row, images=images))


def texts_of(processor: Processor, rollouts: Rollouts) -> list[list[str]]:
    """Text of every response, without control tokens, by prompt."""
    decode = processor.chat.decode
    return [[decode(one.tokens) for one in own] for own in rollouts.responses]


def score_responses(
    rewards: Rewards, prompts: PromptRows, rollouts: Rollouts, texts: Sequence[Sequence[str]]
) -> tuple[list[Group], Scores]:
    """Rewards of the responses, as many to each prompt: a group of each prompt, and the scores of all.

    Raises:
      UserError: a reward failed and ``rl.reward_failure`` is ``stop``.
    """
    items = [
        Completion(
            row_id=example.id,
            prompt=example.messages[-1].content,
            text=text,
            tokens=response.tokens,
            truncated=response.finish == "length",
            columns=example.extra,
        )
        for example, own, responses in zip(prompts.examples, texts, rollouts.responses, strict=True)
        for text, response in zip(own, responses, strict=True)
    ]
    scores = rewards.score(items)
    n = len(items) // max(len(prompts), 1)
    groups = [
        Group(
            number=int(prompts.numbers[i]),
            example=prompts.examples[i],
            row=prompts.rows[i],
            responses=rollouts.responses[i],
            version=rollouts.version,
            total=scores.total[i * n : (i + 1) * n],
            rewards={label: values[i * n : (i + 1) * n] for label, values in scores.rewards.items()},
        )
        for i in range(len(prompts))
    ]
    return groups, scores


def selection_of(parts: Parts, groups: Sequence[Group], scores: Scores) -> Selection:
    """The groups, and which of them the algorithm's filter keeps."""
    n = len(scores.total) // max(len(groups), 1)
    label = parts.setup.config.rl.filter_reward
    judged = scores.rewards[label] if label else scores.total
    keep = kept(parts.algorithm, judged, np.repeat(np.arange(len(groups)), n))
    return Selection(groups, keep[:: max(n, 1)])
