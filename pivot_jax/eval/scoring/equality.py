r"""Equality of two answers as mathematics, units included.

Values are compared by math-verify (Kydlíček et al., Hugging Face), always with the gold first, because it is not
symmetric. Its own time limits are off: they need the main thread and count a timeout as a wrong answer. Nothing here
has a limit of time, so a model's texts belong into a process that has one: :mod:`.formula_process`, or a reward's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, NamedTuple

from pivot_jax.eval.scoring import units as unit_names
from pivot_jax.eval.scoring.solutions import boxed

LONGEST = 2000  # characters; a longer text is no answer, and the LaTeX parser's time grows faster than the text
CLOSE = 1e-5  # relative difference of constants that are certainly not equal: the library compares 6 decimals
_DECIMAL = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PLACES = 6  # math-verify compares decimals at this many places
_PERCENT = re.compile(r"(?:\\[ ,;!]|~|\s)*\\text\s*\{\s*(?:\\?%|percent)\s*\}")
# Roots as they are typed: √{3}, √3, √(x+1), sqrt(3).
_TYPED_ROOT = re.compile(r"(?:√|(?<![\\A-Za-z])sqrt)\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+(?:\.\d+)?|(?<=√)[A-Za-z]))")
_TYPED_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
_LEADING = re.compile(r"^\s*(?:\\approx|≈|=)\s*")


def gold_value(gold: Any) -> str | None:
    """The gold answer's text: its last box, or else all of it; None where it has no value."""
    if gold is None:
        return None
    text = str(gold)
    text = (boxed(text) or text).strip().strip("$").strip()
    return text if _readable(text) else None


def same_answer(answer: str, gold: str) -> bool:
    """Whether an answer equals a gold answer as mathematics, or as text where the gold has no value."""
    target = gold_value(gold)
    return answer.strip() == gold.strip() if target is None else equal(answer, target)


@lru_cache(maxsize=4096)  # a group's completions often agree
def equal(answer: str, gold: str, units: unit_names.Policy = "same") -> bool:
    """Whether two answers are equal as mathematics, and so are their units."""
    if not answer or len(answer) > LONGEST or "\0" in answer:
        return False
    (value, unit), (target, target_unit) = unit_names.split(_clean(answer)), unit_names.split(_clean(gold))
    if not value or not target or not unit_names.agree(unit, target_unit, units):
        return False
    number, wanted = _number(value), _number(target)
    if number is not None and wanted is not None:
        return number == wanted or ("." in value + target and round(number, _PLACES) == round(wanted, _PLACES))
    found, golds = candidates(value), candidates(target)
    if not found or ("%" not in value + target and _differ(found[0], golds[0])):
        return False
    return verifier().verify(golds, found)


class Verifier(NamedTuple):
    """math-verify: ``parse(latex) -> candidates``, ``verify(gold, answer) -> equal``. No time limits."""

    parse: Callable[[str], list[Any]]
    verify: Callable[[list[Any], list[Any]], bool]


@cache
def verifier() -> Verifier:
    """The library with the settings of :func:`equal`. It takes half a second to import, so only who needs it does."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    for name in ("math_verify", "latex2sympy2_extended"):  # they warn that no time limit is set
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Units are compared by .units; the library would drop them on both sides, and "m" of the product "2m" too.
    normal = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last")
    extraction = (LatexExtractionConfig(boxed_match_priority=0, normalization_config=normal),)
    return Verifier(
        parse=lambda text: parse(rf"\boxed{{{text}}}", extraction_config=extraction, parsing_timeout=None),
        verify=lambda gold, answer: verify(gold, answer, strict=True, timeout_seconds=None),
    )


@lru_cache(maxsize=4096)
def candidates(latex: str) -> list[Any]:
    """What a text may mean: expressions of sympy, and the text as it is; empty where it has no meaning."""
    return verifier().parse(latex)


def _differ(first: Any, second: Any) -> bool:
    """Whether both are constants with different values. It saves the library's attempt to simplify the difference."""
    from sympy import Expr

    if not all(isinstance(one, Expr) and one.is_number for one in (first, second)):
        return False
    try:
        values = [complex(one.evalf()) for one in (first, second)]
    except (TypeError, ValueError, OverflowError):
        return False
    return abs(values[0] - values[1]) > CLOSE * max(1.0, *map(abs, values))


def _readable(gold: str) -> bool:
    value, _ = unit_names.split(_clean(gold))
    return bool(value) and (_number(value) is not None or bool(candidates(value)))


def _clean(text: str) -> str:
    r"""Without ``≈`` in front, percent as ``\%``; typed roots and π (and MM_Math's ``{sqrt}``) as LaTeX has them."""
    text = _TYPED_ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2] or root[3]}}}", text.replace("{sqrt}", r"\sqrt"))
    return _LEADING.sub("", _PERCENT.sub(r"\\%", _TYPED_PI.sub("π", text)))


def _number(text: str) -> Fraction | None:
    """A decimal number's value, None where the text is anything else."""
    text = _THOUSANDS.sub("", text.replace("−", "-"))
    return Fraction(text) if _DECIMAL.fullmatch(text) else None
