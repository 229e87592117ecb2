"""Which rows of a source are used: sampling strategies, and the paper's subset filters.

Random choices are prefixes of one permutation per seed. So the first 3,000 are among the first 5,000 (nested subsets:
only the amount differs between two runs).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.sources.base import Endless, Selected, Source
from pivot_jax.errors import RowError, UserError
from pivot_jax.progress import progress

# Marks of a reasoning-style answer: "<think>", "<review>" and their like in MMPR (PIVOT's Shift-r).
REASONING_TAGS = ("think", "thinking", "thought", "reason", "reasoning", "review", "reflect", "reflection", "rethink")
_TAG = re.compile(rf"</?({'|'.join(REASONING_TAGS)})>", re.IGNORECASE)
SHOW_FROM = 5_000  # rows; a progress bar for less would only flicker
LONG_WORDS, NO_THINK_WORDS, SHORT_WORDS = 100, 60, 30
STRATEGIES = "all, first:N, first:P%, end:N, end:P%, random:N, random:P%"


def permutation(size: int, seed: int) -> np.ndarray:
    """The order that every random choice of rows with this seed takes its prefix from."""
    return np.random.default_rng([seed, size]).permutation(size)


def _amount(text: str, size: int) -> int:
    """``"250"`` or ``"12.5%"`` (rounded up, as LLaVA-NeXT) of ``size`` rows, at most all of them."""
    if text.endswith("%"):
        wanted = math.ceil(Fraction(text[:-1]) * size / 100)
    else:
        wanted = int(text)
    if wanted < 0:
        raise ValueError
    return min(wanted, size)


def sample(source: Source, strategy: str, seed: int = 0, where: str = "sampling") -> Source:
    """Rows chosen by a LLaVA-NeXT strategy: ``all``, ``first:N``, ``end:N``, ``random:N``, each also with ``P%``.

    Raises:
      UserError: another strategy; the message starts with ``where``.
    """
    if strategy == "all":
        return source
    if isinstance(source, Endless) and (not strategy.startswith("first:") or strategy.endswith("%")):
        raise UserError(f"{where}: '{strategy}' of {source.name}, which has no end; write 'first:N' for its first rows")
    size = len(source)
    kind, _, text = strategy.partition(":")
    try:
        amount = _amount(text.strip(), size)
        indices = {
            "first": lambda: np.arange(amount),
            "end": lambda: np.arange(size - amount, size),
            "random": lambda: permutation(size, seed)[:amount],
        }[kind]()
    except (ValueError, KeyError, ZeroDivisionError):
        raise UserError(f"{where}: '{strategy}' is not a sampling strategy (allowed: {STRATEGIES})") from None
    return Selected(source, indices, f"{strategy}|{seed}")


def answer_text(example: Example) -> str:
    """The answer that an arm is trained on: the chosen one, or the last assistant turn."""
    if example.chosen is not None:
        return example.chosen
    return example.messages[-1].content if example.messages and example.messages[-1].role == "assistant" else ""


def words(text: str) -> int:
    return len(text.split())


def has_tags(text: str) -> bool:
    return _TAG.search(text) is not None


def under30(text: str) -> bool:
    """PIVOT appendix B.4, Under30: fewer than 30 words."""
    return words(text) < SHORT_WORDS


def no_think(text: str) -> bool:
    """PIVOT appendix B.4, NoThink: no reasoning tags and fewer than 60 words."""
    return not has_tags(text) and words(text) < NO_THINK_WORDS


def shifted(text: str) -> bool:
    """PIVOT appendix B.4, the rows that Shift-r adds: more than 100 words, or reasoning tags."""
    return words(text) > LONG_WORDS or has_tags(text)


KEEP: dict[str, Callable[[str], bool]] = {"under30": under30, "nothink": no_think, "shifted": shifted}
FILTERS = (*KEEP, "shift:R:N", "shift_only:R:N")


def _matches(source: Source, test: Callable[[str], bool], bad: bool) -> np.ndarray:
    """Whether each row's answer passes; a row that cannot be read gets ``bad``."""
    out = np.empty(len(source), bool)
    with progress(f"filtering {source.name}", len(source), show=len(source) >= SHOW_FROM) as advance:
        for index in range(len(source)):
            advance()
            try:
                out[index] = test(answer_text(source[index]))
            except RowError:
                out[index] = bad
    return out


def keep(source: Source, rule: str, seed: int = 0) -> Source:
    """Rows that the paper's set variants keep; ``rule`` is one of :data:`FILTERS`.

    ``shift:R:N`` draws N rows: ceil(R % of N) long or tagged ones, the others at random from all remaining rows (so
    ``shift:0:N`` is a plain random draw). ``shift_only:R:N`` draws the others from rows that are neither, which makes
    the share exact. Rows that cannot be read are kept, so that the loader counts them as bad.

    Raises:
      UserError: another rule, or too few rows for it.
    """
    if isinstance(source, Endless):
        raise UserError(f"filter: '{rule}' of {source.name}, which has no end; leave it out")
    if rule in KEEP:
        return Selected(source, np.flatnonzero(_matches(source, KEEP[rule], bad=True)), rule)
    kind, _, rest = rule.partition(":")
    percent, _, count = rest.partition(":")
    if kind not in ("shift", "shift_only") or not percent.isdigit() or not count.isdigit() or int(percent) > 100:
        raise UserError(f"filter: '{rule}' is none of {', '.join(FILTERS)}")
    return Selected(source, _shift(source, kind == "shift_only", int(percent), int(count), seed), f"{rule}|{seed}")


def _shift(source: Source, exact: bool, percent: int, count: int, seed: int) -> np.ndarray:
    is_shifted = _matches(source, shifted, bad=False)
    order = permutation(len(source), seed)
    wanted = math.ceil(Fraction(percent * count, 100))
    first = order[is_shifted[order]][:wanted]
    left = order[~is_shifted[order]] if exact else order[~np.isin(order, first)]
    chosen = np.concatenate([first, left[: count - wanted]])
    if len(first) < wanted or len(chosen) < count:
        raise UserError(
            f"filter: 'shift:{percent}:{count}' needs {wanted} long or tagged rows and {count} in all; "
            f"{source.name} has {int(is_shifted.sum())} and {len(source)}"
        )
    return np.sort(chosen)
