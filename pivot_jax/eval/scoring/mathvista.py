"""MathVista (Lu et al. 2024). ``Gold.fields`` has its question_type, answer_type, precision and unit.

The authors let GPT-4 extract a short answer and compare that by rules. Without a judge, the toolkits read only what is
a short answer already; ours takes the final answer of a worked solution.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from rapidfuzz.distance import Levenshtein

from pivot_jax.eval.scoring import parse
from pivot_jax.eval.scoring.option_readers import by_letter, only_option, vlmevalkit_letter
from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict, choice, named
from pivot_jax.eval.scoring.solutions import final_answer, last_line
from pivot_jax.eval.scoring.values import python_float, read_number

RELAXED = 0.05  # Cambrian-1's tolerance
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_PARENTHESISED = re.compile(r"\(([a-zA-Z])\)")


def mathvista(answer: str, gold: Gold) -> Verdict:
    """Our own: the option named, or the final answer's number rounded to the gold's precision, or its list.

    The number is the one of the final answer, or else of the last line that has digits (models like to end with an
    offer of help). Its unit and words may stand around it. An integer must be one: "3.7" is not 3, which it is for the
    authors' rule.
    """
    final = final_answer(answer)
    if gold.choices:
        texts = (last_line(answer), answer, final)
        ways = (read(text, gold.choices) for read in (parse.strict_letter, only_option) for text in texts)
        return named(next(filter(None, ways), ""), gold)
    if gold.fields.get("answer_type") == "list":
        found, wanted = _listed(final), _listed(gold.answer)
        return Verdict(found == wanted is not None, "" if found is None else str(found))
    target = python_float(gold.answer)
    if target is None:
        return Verdict(parse.plain(final) == parse.plain(gold.answer) != "", final)
    value = _number(_with_digits(final, answer), str(gold.fields.get("unit") or ""))
    if value is None:
        return Verdict(0.0)
    digits = _precision(gold)
    rounded = value if digits is None else round(value, digits)
    return Verdict(abs(rounded - target) < 1e-9, f"{value:g}")


def mathvista_cambrian(answer: str, gold: Gold) -> Verdict:
    """Cambrian-1's: the whole answer equals the gold, or both are numbers within 5 %.

    It looks for the question type "multiple-choice" where the data says "multi_choice", so anything but a bare letter
    is wrong there. That is why the paper's MathVista numbers are between 9 and 24.
    """
    text = (answer or "").lower().strip()
    return Verdict(text == gold.answer.lower() != "" or within(text, gold.answer), text)


def within(text: str, accepted: str) -> bool:
    """Whether both are numbers, as Python reads them, that differ by at most 5 % of the answer (not of the gold)."""
    value, target = python_float(text), python_float(accepted.lower())
    return value is not None and target is not None and abs(value - target) <= abs(value) * RELAXED


def mathvista_extraction(answer: str, gold: Gold) -> Verdict:
    """The authors' rules (Lu et al. 2024), for an answer that is already extracted: normalised, then exact.

    An option is the letter's, else the one nearest by edit distance, whatever the extraction says.
    """
    return _official((answer or "").strip(), gold, _precision(gold))


def mathvista_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """lmms-eval's without its judge: an option's text, an integer or a float, and nothing around it.

    A bare letter goes to its judge. The data set holds precisions as floats (1.0), with which its rounding fails:
    then it counts no float answer right, and neither does this.
    """
    text, kind = (answer or "").strip(), gold.fields.get("answer_type")
    if not text:
        return Verdict(_official("", gold, _raw_precision(gold)), "")
    if gold.choices:
        return _official(text, gold, None) if text in gold.choices else Verdict(0.0)
    try:
        if kind == "integer":
            return _official(str(int(text)), gold, None)
        if kind == "float":
            return _official(str(float(text)), gold, _raw_precision(gold))
    except ValueError:
        pass
    return Verdict(0.0)


def mathvista_vlmevalkit(answer: str, gold: Gold) -> Verdict:
    """VLMEvalKit's without a judge: its multiple-choice rules; else exactly the gold's number.

    It takes 0 for not found, and never reads a list.
    """
    if gold.choices:
        return named(vlmevalkit_letter(answer, by_letter(gold.choices)), gold)
    kind = gold.fields.get("answer_type")
    if kind not in ("integer", "float"):
        return Verdict(0.0)
    read = int if kind == "integer" else float
    try:
        value = read(answer or "")
        right = value == read(gold.answer) and value != 0
    except (ValueError, OverflowError):
        return Verdict(0.0)
    return Verdict(right, str(value) if right else "")


def _official(extraction: str, gold: Gold, precision: int | None) -> Verdict:
    """The verdict on an extracted answer. ``precision``: decimals of a float answer; None fails."""
    if gold.choices:
        chosen = _chosen(extraction, gold)
        return Verdict(chosen == choice(gold, parse.letter(gold.answer)), chosen if extraction else "")
    value: str | None = extraction
    try:
        if gold.fields.get("answer_type") == "integer":
            value = str(int(float(extraction)))
        elif gold.fields.get("answer_type") == "float":
            value = None if precision is None else str(round(float(extraction), precision))
    except (ValueError, OverflowError):
        value = None
    return Verdict(value is not None and value.strip() == gold.answer.strip() != "", value or "")


def _chosen(extraction: str, gold: Gold) -> str:
    """Text of the option that an extraction names, or is nearest to."""
    letters = _PARENTHESISED.findall(extraction)
    letter = letters[0].upper() if letters else extraction
    if len(letter) == 1 and letter in parse.LETTERS[: len(gold.choices)]:
        return choice(gold, letter)
    return min(gold.choices, key=lambda option: Levenshtein.distance(letter, option))


def _precision(gold: Gold) -> int | None:
    """Decimals of a float answer, None where the data names none."""
    value = gold.fields.get("precision")
    return None if value is None else int(float(value))


def _raw_precision(gold: Gold) -> int | None:
    """As Python's ``round`` takes it: an integer, and no other number."""
    value = gold.fields.get("precision")
    return value if isinstance(value, int) else None


def _with_digits(final: str, answer: str) -> str:
    """The final answer; where it has no digit the last text in bold, or line, that has one."""
    texts = (final, *reversed(_BOLD.findall(answer or "")), *reversed((answer or "").splitlines()))
    return next((text for text in texts if any(map(str.isdigit, text))), "")


def _number(text: str, unit: str) -> float | None:
    """The one number of a final answer, without the question's unit; the one after the last "=" where there is one."""
    text = text.rpartition("=")[2].replace("*", "").replace("%", "").strip().strip("$").strip()
    if unit:
        text = text.removesuffix(unit).removeprefix(unit).strip()
    return read_number(text)


def _listed(text: str) -> list[Any] | None:
    """The list that a text ends with, as numbers; None where there is none."""
    start = text.rfind("[")
    try:
        value = ast.literal_eval(text[start : text.rfind("]") + 1]) if start >= 0 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None


SCORERS: dict[str, Scorer] = {
    "mathvista": mathvista,
    "mathvista_cambrian": mathvista_cambrian,
    "mathvista_extraction": mathvista_extraction,
    "mathvista_lmms_eval": mathvista_lmms_eval,
    "mathvista_vlmevalkit": mathvista_vlmevalkit,
}
