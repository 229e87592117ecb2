r"""VLMEvalKit's judge of MM-Math, which is OlympiadBench's: two answers are equal as lists of formulas.

Texts are read by latex2sympy2_extended here, and by sympy's own parser there. It is called through
:mod:`.formula_process`, which limits its time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from pivot_jax.eval.scoring.comma_parts import pair_up

TOLERANCE = 1e-2 * 1.01  # of numbers
SIMPLIFIED = 1e-3  # of what is left of a difference with unknowns
LONGEST = 300  # characters of a text that is computed
HIGHEST = 1000  # exponent
_DOLLARS = re.compile(r"\$(.*?)\$")
_ANGLE = re.compile(r"(\\sin|\\cos|\\tan)(\d+)")
_UPRIGHT = re.compile(r"\\(?:mathrm|mathbf)\{~?([^}]*)\}")
_UNITS = (
    "\\text{cm}^2", "\\text{cm}", "\\,cm", "\\text{ cm}", "cm", "\\text{分米}^2", "cm^{2}", "60 \\text{ cm}^2",
    "\\ \\text{m}", "\\text{米}",
)  # fmt: skip
_SIGNS = {
    "\\left": "", "\\right": "", "厘米": "", "，": ",", "$": "", "（": "(", "）": ")", "\\infty": "oo", "\\colon ": ":",
    "＋": "+", "\\, ": "", "\\,": "", "^\\circ": "", "^{\\circ}": "",
}  # fmt: skip
_EDGES = "\n,.:;^_=+`!@#%^&*~，。"


def same(gold: str, answer: str) -> bool:
    """Whether the comma-separated parts of both pair up, each as equal text, number, formula, equation or interval."""
    try:
        first, second = _plain(_content(gold)), _plain(_content(answer))
    except ValueError:
        return False
    if first == second:
        return True
    return pair_up(first, second, _same_part)


def _content(text: str) -> str:
    r"""All boxes, else all of the last line that is between ``$``, each with a comma after it; else the text.

    Raises ValueError where a box is never closed.
    """
    found = ""
    for match in re.finditer(r"\\boxed{", text):
        end, depth = match.end(), 1
        while depth and end < len(text):
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        if depth:
            raise ValueError("a box is never closed")
        found += text[match.end() : end - 1] + ","
    return found or "".join(f"{one}," for one in _DOLLARS.findall(text.strip().split("\n")[-1])) or text


def _plain(text: str) -> str:
    """Without centimetres and metres, degrees, full-width signs, and marks at the edges."""
    for unit in _UNITS:
        text = text.replace(unit, "")
    text = re.sub(r"(.+)m$", r"\1", text.strip())
    if "\\in " in text:
        text = text.split("\\in ")[1]
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    text = _ANGLE.sub(r"\1((\2/180)\\pi)", text).strip(_EDGES)
    return _UPRIGHT.sub(r"\1", text)


def _same_part(first: str, second: str) -> bool:
    if first == second != "":
        return True
    if all(text.startswith(("(", "[")) and text.endswith((")", "]")) for text in (first, second)):
        try:
            if _same_intervals(first, second):
                return True
        except Exception:  # as the judge: whatever the parser raises
            return False
    equations = "=" in first and "=" in second
    ways = (_same_number, _same_equation) if equations else (_same_number, _same_formula, _same_equation)
    return any(_holds(way, first, second) for way in ways)


def _holds(way: Any, first: str, second: str) -> bool:
    try:
        return bool(way(first, second))
    except Exception:  # as the judge: whatever the parser and sympy raise
        return False


def _same_number(first: str, second: str) -> bool:
    """Within the tolerance, also of a hundredth and of a hundred times the first (percentages)."""
    value, other = float(first), float(second)
    return any(abs(scaled - other) <= TOLERANCE for scaled in (value / 100, value, value * 100))


def _same_formula(first: str, second: str) -> bool:
    from sympy import Symbol, simplify

    texts = [text.split("=")[1].strip() if "=" in text else text.strip() for text in (first, second)]
    left, right = (_parsed(text) for text in texts)
    if left == right:
        return True
    left, right = (one.subs(Symbol("pi"), math.pi) for one in (left, right))
    unknown = [one.has(Symbol) for one in (left, right)]
    if unknown[0] != unknown[1] or any(len(text) > LONGEST for text in texts):
        return False
    if unknown[0]:
        return bool(abs(simplify(left - right).evalf()) < SIMPLIFIED)
    return _computable(left) and _computable(right) and bool(abs(left.evalf() - right.evalf()) <= TOLERANCE)


def _same_equation(first: str, second: str) -> bool:
    """Both sides' difference is that of the other one, times an integer."""
    from sympy import simplify

    left, right = (simplify(_parsed(one) - _parsed(other)) for one, other in map(_sides, (first, second)))
    ratios = simplify(left / right), simplify(right / left)
    return any(ratio.is_Integer and ratio != 0 for ratio in ratios)


def _sides(text: str) -> Sequence[str]:
    left, right = text.split("=")
    return left, right


def _same_intervals(first: str, second: str) -> bool:
    left, right = first.split("\\cup"), second.split("\\cup")
    return len(left) == len(right) and all(
        one[0] == other[0]
        and one[-1] == other[-1]
        and all(
            _same_formula(*ends)
            for ends in zip(one.strip("[]()").split(","), other.strip("[]()").split(","), strict=False)
        )
        for one, other in zip(left, right, strict=True)
    )


def _computable(expression: Any) -> bool:
    """False for a power whose exponent is too high."""
    from sympy import Pow

    if not isinstance(expression, Pow):
        return True
    base, exponent = expression.as_base_exp()
    return bool(base.is_number and exponent.is_number and abs(exponent.evalf()) <= HIGHEST)


def _parsed(text: str) -> Any:
    from latex2sympy2_extended import latex2sympy

    return latex2sympy(text)
