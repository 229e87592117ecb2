r"""The judge of MAYE (arXiv 2504.02587, GAIR-NLP/MAYE ``maye/datasets/math.py``), false positives included.

It accepts an answer where one of three rules does: math-verify (with answer and gold swapped), a comparison of texts by
comma-separated parts, or equal digits before ``^`` in a box. Each rule reads the last sentence that contains "boxed",
of both texts. Known false positives: ``2^3`` for ``2^5``, ``60^2`` for ``60^\circ``, two texts without "boxed", any
units. :func:`.math.math` is the strict one.
"""

from __future__ import annotations

import re
from functools import lru_cache

from pivot_jax.eval.scoring.comma_parts import pair_up
from pivot_jax.eval.scoring.equality import verifier
from pivot_jax.rl.rewards.completion import Completion, gold_of

_SENTENCE_END = re.compile(r"(?<!\d)[.!?](?!\d)")
_DIGITS = re.compile(r"\\boxed\{(\d*?)(?:\^|$)")
_CIRCLES = (
    r"\text{circ}", r"\text{degree}", r"\{circ}", r"\{degree}", r"\textcirc", r"\textdegree", r"\text{circles}",
    r"\textcircles", r"\text{o}", r"\texto", r"\bigcirc", r"\bullet",
)  # fmt: skip
REPLACEMENTS = (
    *((text, r"\circ") for text in _CIRCLES), ("{sqrt}", r"\sqrt"), ("{radical}", r"\sqrt"), ("{°}", r"\circ"),
    (r"\,\text{cm}", "cm"),
)  # fmt: skip
TOLERANCE = 1e-2 * 1.01  # of two numbers


def maye_math(item: Completion, *, column: str = "solution") -> float | None:
    """1 where MAYE's judge accepts the completion, else 0; None for a row without ``column``, the gold solution."""
    gold = gold_of(item, column)
    return None if gold is None else float(judge(item.text, str(gold)))


@lru_cache(maxsize=4096)
def judge(prediction: str, solution: str) -> bool:
    """Whether MAYE accepts the prediction."""
    prediction, solution = sentence(prediction), sentence(solution)
    return same_value(prediction, solution) or same_parts(prediction, solution) or same_digits(prediction, solution)


def sentence(text: str) -> str:
    """The last sentence with "boxed" in it, with 16 replacements; "" where there is none."""
    found = [part.strip() for part in _SENTENCE_END.split(text) if "boxed" in part]
    last = found[-1] if found else ""
    for old, new in REPLACEMENTS:
        last = last.replace(old, new)
    return last


def same_value(prediction: str, solution: str) -> bool:
    """math-verify with its default extraction, and the arguments in MAYE's order."""
    from math_verify import parse

    return verifier().verify(parse(prediction, parsing_timeout=None), parse(solution, parsing_timeout=None))


def same_parts(prediction: str, solution: str) -> bool:
    """The comma-separated parts of both texts pair up, each equal as text or as a number.

    OlympiadBench's judge as MAYE calls it: without the step that would take the box's content. Its comparisons by sympy
    are left out. They fail for every input, because they are called with a parsed document instead of a text (the same
    bug hides that they would run the text as Python code).
    """
    if prediction == solution:
        return True
    return pair_up(prediction, solution, _same_part)


def same_digits(prediction: str, solution: str) -> bool:
    r"""Both have ``\boxed{`` followed by the same digits (or none) and then ``^`` or the end of the text."""
    first, second = _DIGITS.search(prediction), _DIGITS.search(solution)
    return first is not None and second is not None and first[1] == second[1]


def _same_part(first: str, second: str) -> bool:
    """Equal texts, or numbers (or a number and its percentage) that differ by at most the tolerance."""
    if first == second != "":
        return True
    try:
        value, other = float(first), float(second)
    except ValueError:
        return False
    return any(abs(scaled - other) <= TOLERANCE for scaled in (value / 100, value, value * 100))
