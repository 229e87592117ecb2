"""Numbers from LaTeX by latex2sympy, as lmms-eval and VLMEvalKit compare answers to MATH-Vision.

Both toolkits run the parsed expression as a Python program, in which ``sqrt`` and ``pi`` are no names. Here it is never
run; an expression with a name in it has no number, as there. To be called through :mod:`.formula_process`.
"""

from __future__ import annotations

import re
from typing import Any

CLOSE = 1e-6
_NAMES = re.compile(r"(?<![\d.])[A-Za-z_]+")  # the e of 1.0e-5 is none
_TOWER = re.compile(r"\^\s*[({]?[\d.\s]*\^|\^\s*\{?\s*\d{6,}")  # 9^9^9 and 9^{999999} would be computed digit by digit


def number(text: str) -> int | float | None:
    """The value of a text in LaTeX; None where it has none, or names anything (x, sqrt, pi, degrees).

    lmms-eval's parser reads up to a bracket that nothing opens, takes ``^\\circ`` for a power, and no quotation mark.
    """
    parsed = None if "\\circ" in text or '"' in text else _parsed(_balanced(text))
    if parsed is None or _NAMES.search(str(parsed)):
        return None
    try:
        return int(parsed) if parsed.is_Integer else float(parsed)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None


def close(first: str, second: str) -> bool:
    """Whether the difference of two texts in LaTeX is a number below 1e-6."""
    left, right = _parsed(first), _parsed(second)
    if left is None or right is None:
        return False
    try:
        return bool(abs(left - right) < CLOSE)
    except (TypeError, ValueError, OverflowError, AttributeError):  # a relation with unknowns is neither true nor false
        return False


def _balanced(text: str) -> str:
    """The text up to the first closing bracket or brace that closes none."""
    depth = {"{": 0, "(": 0}
    for at, char in enumerate(text):
        for opening, closing in ("{}", "()"):
            depth[opening] += (char == opening) - (char == closing)
        if min(depth.values()) < 0:
            return text[:at]
    return text


def _parsed(text: str) -> Any | None:
    """The expression of a text, None where it is none."""
    from latex2sympy2_extended import latex2sympy

    if _TOWER.search(text):
        return None
    try:
        return latex2sympy(text)
    except Exception:  # the parser raises errors of many kinds, bare ``Exception`` among them
        return None
