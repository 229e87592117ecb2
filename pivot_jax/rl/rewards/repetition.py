"""Penalty for text that repeats itself."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

from pivot_jax.rl.rewards.completion import Completion


def repetition(
    item: Completion, *, n: int = 3, penalty: float = -1.0, unit: Literal["tokens", "words"] = "tokens"
) -> float:
    r"""``penalty`` times the share of repeated n-grams, :math:`1 - |\text{unique}| / |\text{all}|`.

    Source: Yeo et al. 2025 (arXiv 2502.03373, appendix C.2), as TRL computes it on tokens; 0 for a completion of fewer
    than ``n`` tokens or words.
    """
    if unit not in ("tokens", "words"):
        raise ValueError(f"unit '{unit}' is unknown; there are tokens, words")
    parts: Sequence[Hashable] = item.tokens.tolist() if unit == "tokens" else item.text.lower().split()
    return penalty * repeated_share(parts, n)


def repeated_share(parts: Sequence[Hashable], n: int) -> float:
    """Share of the n-grams of ``parts`` that occurred before, 1 - distinct / all; 0 for fewer than ``n`` parts."""
    count = len(parts) - n + 1
    if count < 1:
        return 0.0
    return 1 - len(set(zip(*(parts[start:] for start in range(n)), strict=False))) / count
