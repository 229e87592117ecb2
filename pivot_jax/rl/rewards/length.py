"""Rewards that depend on the length of a completion, in tokens with the end token."""

from __future__ import annotations

import math as numbers
from collections.abc import Callable
from typing import Literal

from pivot_jax.rl.rewards.answers import choice, exact, number, text
from pivot_jax.rl.rewards.completion import Completion
from pivot_jax.rl.rewards.math import math

JUDGES: dict[str, Callable[..., float | None]] = {
    "math": math,
    "choice": choice,
    "number": number,
    "exact": exact,
    "text": text,
}


def soft_overlong(item: Completion, *, max_length: int = 20480, buffer: int = 4096) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, equation 13).

    0 up to ``max_length - buffer`` tokens, then linear down to -1 at ``max_length``, and -1 beyond. The defaults are
    the paper's.
    """
    if not 0 <= buffer <= max_length:
        raise ValueError(f"buffer {buffer} is not between 0 and max_length {max_length}")
    over = len(item.tokens) - (max_length - buffer)
    if over <= 0:
        return 0.0
    return -min(1.0, over / buffer) if buffer else -1.0


def cosine_length(
    item: Completion,
    *,
    max_length: int = 1024,
    judge: Literal["math", "choice", "number", "exact", "text"] = "math",
    column: str = "answer",
    correct: tuple[float, float] = (1.0, 0.5),
    wrong: tuple[float, float] = (-1.0, -0.5),
    exceeded: float = -1.0,
) -> float | None:
    r"""A reward of correctness that depends on the length (Yeo et al. 2025, arXiv 2502.03373, appendix C.1).

    From the first value at length 0 to the second at ``max_length``, along
    :math:`b + (a - b)(1 + \cos(\pi t / T)) / 2`. Short right answers get more than long ones, short wrong ones less.

    Args:
      judge: what says whether the answer is right: math | choice | number | exact | text.
      column: the gold answer, which the judge reads.
      exceeded: the reward of a truncated completion, and of one longer than ``max_length``.
    """
    score = JUDGES[judge](item, column=column)
    if score is None:
        return None
    if item.truncated or len(item.tokens) > max_length:
        return exceeded
    first, last = correct if score else wrong
    return last + (first - last) * (1 + numbers.cos(numbers.pi * len(item.tokens) / max_length)) / 2
