"""Reflection in responses: MAYE's 15 words as the paper counts them and as whole words, its ratios, loops, changes.

The paper's count is of substrings in the lower-cased text ("await" has a "wait"), its ratios are means over ranks with
0 for a rank without a denominator. Both are kept for comparison. Letters: n responses, w words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pivot_jax.eval.scoring.solutions import boxed
from pivot_jax.rl.rewards.repetition import repeated_share

WORDS = (
    "re-check", "re-evaluate", "re-examine", "re-think", "recheck", "reevaluate", "reexamine", "reevaluation",
    "rethink", "check again", "think again", "try again", "verify", "wait", "yet",
)  # fmt: skip
# What a reflection does to the answer that the text states before it.
UNCHANGED, CORRECTED, SPOILED, OTHER, UNKNOWN = "same answer", "wrong to right", "right to wrong", "wrong to wrong", ""
CHANGES = (UNKNOWN, UNCHANGED, CORRECTED, SPOILED, OTHER)
LOOP = 0.5  # share of repeated 4-grams from which a response counts as a repetition loop
_WHOLE = re.compile(r"(?<![\w-])(?:" + "|".join(sorted(map(re.escape, WORDS), key=len, reverse=True)) + r")(?![\w-])")
_STATED = re.compile(r"(?:=|\bis|\bare|\bbe|\bequals?|\bget|\bgives?|answer:?)\s*\$?\s*(-?\d[\d,]*(?:\.\d+)?(?:/\d+)?)")
_INDEX = {word: index for index, word in enumerate(WORDS)}


@dataclass(frozen=True)
class Words:
    """The reflection words of one response.

    Attributes:
      substrings: occurrences of each of :data:`WORDS` in the lower-cased text, not overlapping, as the paper counts.
      whole: occurrences as whole words.
      position: where the first whole word begins, 0..1 of the text; NaN: there is none.
    """

    substrings: tuple[int, ...]
    whole: tuple[int, ...]
    position: float


_NONE = (0,) * len(WORDS)


def words(text: str) -> Words:
    """The reflection words of a response."""
    lower = text.lower()
    substrings = tuple(lower.count(word) for word in WORDS)
    if not any(substrings):
        return Words(_NONE, _NONE, float("nan"))
    whole, position = list(_NONE), float("nan")
    for found in _WHOLE.finditer(lower):
        whole[_INDEX[found[0]]] += 1
        if position != position:
            position = found.start() / len(lower)
    return Words(substrings, tuple(whole), position)


def repetition(text: str) -> float:
    """Share of repeated 4-grams of words (rep-4 of Welleck et al. 2020)."""
    return repeated_share(text.split(), 4)


def change(text: str, position: float, correct: bool, judge: Callable[[str], bool]) -> str:
    """What the first reflection does to the answer: one of :data:`CHANGES`.

    The answer before it is the last one that the text states there: a closed ``\\boxed{}``, or a number after "=",
    "is", "get" and the like. The answer after it is the response's, which is correct or not.

    Args:
      position: of the first reflection word, 0..1.
      judge: whether an answer's text is right.

    Returns:
      :data:`UNKNOWN` where the text states no answer before it.
    """
    before = stated(text[: int(position * len(text))])
    if not before:
        return UNKNOWN
    if judge(before):
        return UNCHANGED if correct else SPOILED
    if correct:
        return CORRECTED
    after = boxed(text) or stated(text)
    return UNCHANGED if before == after else OTHER


def stated(text: str) -> str:
    """The last answer that a text states; "" where it states none."""
    if found := boxed(text):
        return found
    numbers = _STATED.findall(text)
    return numbers[-1].rstrip(",").replace(",", "") if numbers else ""


@dataclass(frozen=True)
class Ratios:
    """The paper's Table 2; a ratio without a denominator is 0, as there. Names are those of its logs."""

    reflection_ratio: float
    reflection_ratio_in_correct_answers: float
    reflection_ratio_in_incorrect_answers: float
    correct_ratio_in_reflection_texts: float
    correct_ratio_in_no_reflection_texts: float


def ratios(reflects: np.ndarray, correct: np.ndarray) -> Ratios:
    """The five ratios over all responses: bool [n] each, whether it reflects and whether it is correct."""
    both = int(np.sum(reflects & correct))
    reflecting, right, n = int(np.sum(reflects)), int(np.sum(correct)), len(reflects)
    return Ratios(
        _share(reflecting, n),
        _share(both, right),
        _share(reflecting - both, n - right),
        _share(both, reflecting),
        _share(right - both, n - reflecting),
    )


def ratios_over_ranks(reflects: np.ndarray, correct: np.ndarray, ranks: np.ndarray) -> Ratios:
    """The ratios as MAYE logs them: unweighted means over the processes that sampled the responses.

    A process without a denominator counts as 0, so ratios of what is rare are too low (by up to 38 % in the paper).

    Args:
      ranks: int [n], the process of each response.
    """
    found = [ratios(reflects[ranks == rank], correct[ranks == rank]) for rank in np.unique(ranks)]
    return Ratios(*np.mean([list(vars(one).values()) for one in found], axis=0).tolist())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
