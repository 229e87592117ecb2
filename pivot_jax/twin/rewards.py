"""The rewards of a run as TRL's GRPOTrainer calls them. Imported by the scripts of twins, in a process with PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.function import Reward, call, load, read_rewards


def reward_functions(entries: Sequence[Mapping[str, Any]], end_id: int) -> list[Callable[..., list[Any]]]:
    """A function for each entry of ``rl.rewards``, named by its label.

    They run in this process, without the limits of time and memory that ours have in training.

    Args:
      end_id: the token that ends a response.
    """
    return [_function(reward, end_id) for reward in read_rewards(entries, timeout_s=0.0)]


def _function(reward: Reward, end_id: int) -> Callable[..., list[Any]]:
    function = load(reward)

    def scores(**given: Any) -> list[Any]:
        items = _completions(given, end_id)
        if reward.built_in:
            return [function(item, **reward.options) for item in items]
        return call(reward, function, items)

    scores.__name__ = reward.label
    return scores


def _completions(given: Mapping[str, Any], end_id: int) -> list[Completion]:
    names = "prompts", "completions", "completion_ids", "columns"
    return [
        Completion(
            row_id=str(at),
            prompt=_text(prompt),
            text=_text(completion).strip(),  # as data.processing.chat.Chat.decode gives it
            tokens=np.asarray(ids, np.int32),
            truncated=not ids or ids[-1] != end_id,
            columns=json.loads(columns),
        )
        for at, (prompt, completion, ids, columns) in enumerate(zip(*map(given.__getitem__, names), strict=True))
    ]


def _text(messages: Any) -> str:
    """The text of the last message, as rewards of a run get it: ``<image>`` in the place of images."""
    if isinstance(messages, str):
        return messages
    content = messages[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join("<image>" if block["type"] == "image" else block["text"] for block in content)
