"""Step II, response collection; and the first half of step III, the rewards of the responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pivot_jax.data.loading.prompts import PromptRows
from pivot_jax.objectives.filters import kept
from pivot_jax.rl.groups import Group, Selection
from pivot_jax.rl.parts import Parts
from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.composition import Scores
from pivot_jax.rollout.engine import Prompt, Rollouts


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
    config = parts.setup.config
    parts.engine.update(params, version)
    asked = [
        Prompt(example, row, int(index))
        for example, row, index in zip(prompts.examples, prompts.rows, prompts.numbers, strict=True)
    ]
    return parts.engine.generate(asked, config.rl.responses, parts.sampling, (config.seed, number), done)


def texts_of(parts: Parts, rollouts: Rollouts) -> list[list[str]]:
    """Text of every response, without control tokens, by prompt."""
    decode = parts.processor.chat.decode
    return [[decode(one.tokens) for one in own] for own in rollouts.responses]


def score_responses(
    parts: Parts, prompts: PromptRows, rollouts: Rollouts, texts: Sequence[Sequence[str]]
) -> tuple[Selection, Scores]:
    """Rewards of the responses, and the groups that the algorithm's filter keeps.

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
    scores = parts.rewards.score(items)
    n = parts.setup.config.rl.responses
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
    keep = kept(parts.algorithm, scores.total, np.repeat(np.arange(len(groups)), n))
    return Selection(groups, keep[::n]), scores
