"""Scorers of the mathematics benchmarks: MathVista (as Cambrian scores it, and corrected) and MATH-Vision."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from pivot_jax.eval.scoring import parse
from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict, named, relaxed

_PARENTHESISED_LETTER = re.compile(r"\(([a-zA-Z])\)")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")
_ROOT = re.compile(r"\\sqrt\{([^{}]+)\}")
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")


def mathvista(answer: str, gold: Gold, *, cambrian: bool = False) -> Verdict:
    """Our own MathVista, and Cambrian-1's.

    ``cambrian=True`` gives the score of the paper's suite: its multiple-choice branch asks for the type name
    "multiple-choice" while the data says "multi_choice", so the whole answer is compared with the gold letter and
    anything but a bare letter is wrong. That is why all MathVista numbers there are between 9 and 24.
    ``cambrian=False`` reads the letter or the option's text, and lets numbers differ by 5 % as the suite does.
    """
    text = (answer or "").lower().strip()
    if cambrian:
        return Verdict(max(text == gold.answer.lower() != "", _relaxed_number(text, gold)), text)
    if gold.choices:
        letter = parse.strict_letter(last_line(answer), gold.choices) or parse.strict_letter(answer, gold.choices)
        return Verdict(letter == gold_letter(gold) != "", letter)
    final = final_answer(answer)
    return Verdict(max(relaxed(final, gold), _relaxed_number(text, gold)), final)


def mathvista_cambrian(answer: str, gold: Gold) -> Verdict:
    """MathVista as Cambrian-1 scores it (see :func:`mathvista`)."""
    return mathvista(answer, gold, cambrian=True)


def mathvista_official(
    extraction: str, gold: Gold, *, answer_type: str, precision: int | None = None, question_type: str = "free_form"
) -> float:
    """MathVista's own scoring of an already extracted answer (Lu et al. 2024): normalise, then exact match."""
    return float(_normalise_extraction(extraction, gold.choices, answer_type, precision, question_type) == gold.answer)


def mathvision(answer: str, gold: Gold) -> Verdict:
    """Our own MATH-Vision: the final answer (in ``\\boxed{}``, after "answer is", or last line) has letter or value."""
    final = final_answer(answer)
    if gold.choices or re.fullmatch(r"[A-E]", gold.answer):
        if letter := parse.strict_letter(final, gold.choices or 5):
            return named(letter, gold)
        option = dict(zip(parse.LETTERS, gold.choices, strict=False)).get(parse.letter(gold.answer), "")
        return Verdict(equal_value(final, option), final)
    return Verdict(any(equal_value(final, accepted) for accepted in gold.answers), final)


def final_answer(text: str) -> str:
    """The answer of a worked solution: the last ``\\boxed{}``, else the text after "answer is", else the last line."""
    boxed = parse.boxed(text)
    if boxed:
        return _WRAPPER.sub(r"\1", boxed[-1].content).strip()
    lowered = (text or "").lower()
    for marker in ("answer is", "answer:"):
        if marker in lowered:
            rest = (text or "")[lowered.rindex(marker) + len(marker) :].strip(" :\n*")
            return rest.splitlines()[0].rstrip(".").strip() if rest else ""
    return last_line(text).rstrip(".").strip()


def last_line(text: str) -> str:
    """The last line that is not blank."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""


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


def _relaxed_number(text: str, gold: Gold) -> float:
    both_numbers = parse.number(text) is not None and parse.number(gold.answer) is not None
    return relaxed(text, gold) if both_numbers else 0.0


def gold_letter(gold: Gold) -> str:
    """Letter of the right option, where the gold is that letter or the option's text."""
    if gold.answer in gold.choices:
        return parse.LETTERS[gold.choices.index(gold.answer)]
    return parse.letter(gold.answer)


def _normalise_extraction(
    extraction: str, choices: Sequence[str], answer_type: str, precision: int | None, question_type: str
) -> str | None:
    extraction = str(extraction or "").strip()
    if question_type == "multi_choice":
        named = _PARENTHESISED_LETTER.findall(extraction)
        extraction = named[0].upper() if named else extraction
        letters = parse.LETTERS[: len(choices)]
        if len(extraction) == 1 and extraction in letters:
            return choices[letters.index(extraction)]
        # MathVista takes the nearest option by edit distance, whatever the answer says.
        return min(choices, key=lambda choice: Levenshtein.distance(extraction, choice)) if choices else None
    try:
        if answer_type == "integer":
            return str(int(float(extraction)))
        if answer_type == "float":
            return str(round(float(extraction), precision))
    except (ValueError, OverflowError):
        return None
    return extraction


SCORERS: dict[str, Scorer] = {
    "mathvista": mathvista,
    "mathvista_cambrian": mathvista_cambrian,
    "mathvision": mathvision,
}
