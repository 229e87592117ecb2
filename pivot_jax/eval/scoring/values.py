"""Values of short answers: arithmetic and plain LaTeX, computed without running the text as a program."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

from pivot_jax.eval.scoring import parse

LONGEST = 2000  # characters of an answer that is searched for a number
_NUMBERS = re.compile(r"(?<![\w.])[-+−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?%?")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")
_ROOT = re.compile(r"\\sqrt\{([^{}]+)\}")


def read_number(text: str) -> float | None:
    """The one finite number of a text, or None."""
    text = text.strip()
    if len(text) > LONGEST:
        return None
    text = text.replace("−", "-")
    found = parse.number(text)
    found = evaluate(text) if found is None else found
    if found is None:
        numbers = _NUMBERS.findall(text)
        found = parse.number(numbers[0]) if len(numbers) == 1 else None
    return found if found is not None and math.isfinite(found) else None


def python_float(text: str) -> float | None:
    """The number that Python's ``float`` reads in a text, None where it reads none; toolkits use it as it is."""
    try:
        return float(text)
    except ValueError:
        return None


def equal_value(answer: str, accepted: str, tolerance: float = 5e-3) -> bool:
    """Whether both are equal as text, or as numbers to two decimals.

    Case, blanks and $ do not count. Numbers may hold ``\\frac``, ``\\sqrt`` and π; units are dropped.
    """
    first, second = (_squeeze(text) for text in (answer, accepted))
    if not first or not second:
        return False
    if first == second:
        return True
    values = [evaluate(text) for text in (first, second)]
    return values[0] is not None and values[1] is not None and abs(values[0] - values[1]) < tolerance


def evaluate(text: str) -> float | None:
    """Value of a plain arithmetic or LaTeX expression (digits, + - * / ** ( ) sqrt and pi), or None."""
    previous = None
    while previous != text:
        previous = text
        text = _ROOT.sub(r"(sqrt(\1))", _FRACTION.sub(r"((\1)/(\2))", text))
    text = text.replace("\\pi", "pi").replace("π", "pi").replace("\\times", "*").replace("\\cdot", "*")
    text = re.sub(r"\\(?:text|mathrm)\{[^{}]*\}|\^\{?\\circ\}?|°|\\circ", "", text).replace("^", "**")
    text = re.sub(r"(?<=[\d)])(?=\(|sqrt|pi)", "*", text.replace("{", "(").replace("}", ")"))
    if re.search(r"[^-+*/(). \d]", re.sub(r"sqrt|pi", "", text)):
        return None
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None


_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # of floats: a tower of powers overflows at once and does not fill the memory
}


def _value(node: ast.expr) -> float:
    """Value of an arithmetic syntax tree in floats; ValueError for anything that is not arithmetic."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.Name(id="pi"):
            return math.pi
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument]):
            return math.sqrt(_value(argument))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_value(left), _value(right))
    raise ValueError("not arithmetic")


def _squeeze(text: str) -> str:
    """Blanks, $ and thousands separators removed, lower case."""
    text = (text or "").lower().replace("$", "").replace("\\%", "%").strip().rstrip(".")
    return re.sub(r"(?<=\d),(?=\d{3})", "", text).replace(" ", "").replace("\\,", "")
