"""Penalty for text that repeats itself."""

from __future__ import annotations

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
    parts = item.tokens.tolist() if unit == "tokens" else item.text.lower().split()
    grams = list(zip(*(parts[start:] for start in range(n)), strict=False))
    return penalty * (1 - len(set(grams)) / len(grams)) if grams else 0.0
