"""The built-in rewards that TRL has too, against TRL's."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.formats import format
from pivot_jax.rl.rewards.length import soft_overlong
from pivot_jax.rl.rewards.repetition import repetition

trl = pytest.importorskip("trl.rewards")


def item(words: str, tokens=()) -> Completion:
    return Completion("0", "", words, np.array(tokens, np.int32))


FORMATS = (
    "<think>a</think><answer>b</answer>",
    "<think>a</think> b </think>",
    "<think>a</think>",
    "<think>a</think> b <think>c</think>",
    "x <think>a</think> b",
    "",
)


def test_think_format_is_stricter_than_trls():
    """What we accept TRL accepts too; it also accepts a second closing tag, and a completion without an answer."""
    for words in FORMATS:
        theirs = trl.think_format_reward([[{"content": words}]])[0]
        assert theirs >= format(item(words), style="think")


@pytest.mark.parametrize("length", [0, 79, 80, 81, 90, 99, 100, 101, 500])
def test_soft_overlong_is_trls(length):
    ours = soft_overlong(item("", range(length)), max_length=100, buffer=20)
    assert ours == pytest.approx(trl.get_soft_overlong_punishment(100, 20)([list(range(length))])[0])


@pytest.mark.parametrize("tokens", [[], [1, 2], [1, 2, 3, 4], [5] * 9, [1, 2, 3] * 4])
def test_repetition_is_trls(tokens):
    assert repetition(item("", tokens)) == pytest.approx(trl.get_repetition_penalty_reward(3, -1.0)([tokens])[0])
