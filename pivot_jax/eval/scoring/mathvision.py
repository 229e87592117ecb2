r"""MATH-Vision (Wang et al. 2024): the final answer is the option's letter, its value, or the gold value."""

from __future__ import annotations

import re

from pivot_jax.eval.scoring import parse
from pivot_jax.eval.scoring.formula_process import compared
from pivot_jax.eval.scoring.option_readers import by_letter, vlmevalkit_letter
from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict, choice, named
from pivot_jax.eval.scoring.solutions import final_answer
from pivot_jax.eval.scoring.values import equal_value, python_float

LONGEST = 300  # characters of a text that is parsed as LaTeX
_BOX = re.compile(r"oxed\{(.*)\}", re.DOTALL)
_BARE_FRACTION = re.compile(r"\\frac(?=[^{])(.)([^{])")
_BARE_ROOT = re.compile(r"\\sqrt(?=[^{])(.)")
_SLASH = re.compile(r"(-?(?:0|[1-9]\d*))/(-?(?:0|[1-9]\d*))")
_FLAGS = ("he final answer is", "he answer is", "he correct answer is", "he answer should be")
# What MATH-Vision's normaliser replaces, in its order.
_REPLACED = (
    (" ", ""), ("\\,", ""), ("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\"), ("\n", ""), ("\\text", ""),
    ("\\mbox", ""), ("bmatrix", "pmatrix"), ("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""),
    ("{m}^3", ""), ("m^3", ""), ("{units}", ""), ("units", ""), ("{km}", ""), ("km", ""), ("\\!", ""), ("\\\\", "\\"),
    ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""),
    ("\\$", ""), ("$", ""), ("\\%", ""), ("{.", "{0."),
)  # fmt: skip


def mathvision(answer: str, gold: Gold) -> Verdict:
    """Our own: the final answer (in ``\\boxed{}``, after "answer is", or last line) has letter or value."""
    final = final_answer(answer)
    if gold.choices or re.fullmatch(r"[A-E]", gold.answer):
        if letter := parse.strict_letter(final, gold.choices or 5):
            return named(letter, gold)
        return Verdict(equal_value(final, choice(gold, parse.letter(gold.answer))), final)
    return Verdict(any(equal_value(final, accepted) for accepted in gold.answers), final)


def mathvision_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """lmms-eval's without a judge, which is the authors' (Wang et al. 2024): equal texts, or numbers to two decimals.

    A number is what their LaTeX parser gives and Python computes without any name: no ``\\sqrt`` and no π.
    """
    found = _extracted((answer or "").strip())
    option = choice(gold, gold.answer) if gold.choices else ""
    right = _equal(gold.answer, found) or _equal(option, found)
    return Verdict(right, found)


def mathvision_vlmevalkit(answer: str, gold: Gold) -> Verdict:
    """VLMEvalKit's without a judge: its multiple-choice rules; else the whole answer equals the gold's value."""
    if gold.choices:
        return named(vlmevalkit_letter(answer, by_letter(gold.choices)), gold)
    text, accepted = (answer or "").lower().strip(), gold.answer.lower().strip()
    right = text != "" and (
        text == accepted or (len(text) <= LONGEST and bool(compared("latex_close", accepted, text)))
    )
    return Verdict(right, text if right else "")


def _extracted(text: str) -> str:
    """The authors' answer in a response: a letter, a number after "is", the last box, or what a flag announces."""
    for letter in "ABCDE":
        ends, starts = (f" {letter}.", f" ({letter})."), (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        if text.endswith(ends) or text.startswith(starts):
            text = letter
    tail = text.split("is ")[-1].rstrip(".")
    if python_float(tail) is not None:
        text = tail
    if "oxed{" not in text:
        for flag in (first + flag for flag in _FLAGS for first in "tT"):
            found = flag in text
            text = text.split(flag)[-1].strip()
            if found:
                text = text.split("\n")[0].split(". ")[0]
    elif text.count("oxed{") > 1:
        text = "\\boxed{" + text.split("oxed{")[-1]
    text = _normalised(text)
    for left, right in ("()", "{}"):
        for letter in "abcde":
            text = text.replace(f"{left}{letter}{right}", letter)
    return text.rstrip(".").lstrip(":").strip()


def _normalised(text: str) -> str:
    """The content of the box, or all of it, in the authors' normal form."""
    text = text.lower().replace("{}", "")
    text = found[-1] if (found := _BOX.findall(text)) else text
    if -1 < text.find("}") < (text.find("{") if "{" in text else len(text)):
        text = text.split("}")[0]
    text = text.split("=")[-1].split("\\approx")[-1]
    for old, new in _REPLACED:
        text = text.replace(old, new)
    if text.startswith("."):
        text = f"0{text}"
    if "sqrt" in text:
        text = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", _BARE_ROOT.sub(r"\\sqrt{\1}", text))
    if text == "0.5":
        return "\\frac{1}{2}"
    slash = _SLASH.fullmatch(text)
    return f"\\frac{{{slash[1]}}}{{{slash[2]}}}" if slash else text


def _equal(first: str, second: str) -> bool:
    first, second = first.lower(), second.lower()
    if not first.strip() or not second.strip():
        return False
    if first.strip() == second.strip():
        return True
    first, second = _tuple(first), _tuple(second)
    if first == second:
        return True
    value, other = _number(first), _number(second)
    return value is not None and other is not None and round(value, 2) == round(other, 2)


def _tuple(text: str) -> str:
    """``(a, b)`` and ``[a, b]`` with each part rounded to two decimals; any other text as it is."""
    parts = text[1:-1].split(",")
    if (text[0], text[-1]) not in (("(", ")"), ("[", "]")) or len(parts) < 2:
        return text
    found = []
    for part in parts:
        value = None if "infty" in part or part in ("a", "-a") else _number(part)
        if value is None and "infty" not in part and part not in ("a", "-a"):
            return text
        found.append(part if value is None else str(round(value, 2)))
    return f"{text[0]}{','.join(found)}{text[-1]}"


def _number(text: str) -> int | float | None:
    """The value of a text in LaTeX without names, None where it has none."""
    if re.fullmatch(r"\s*-?\d{1,15}\s*", text):
        return int(text)
    value: int | float | None = compared("latex_number", text) if len(text) <= LONGEST else None
    return value


SCORERS: dict[str, Scorer] = {
    "mathvision": mathvision,
    "mathvision_lmms_eval": mathvision_lmms_eval,
    "mathvision_vlmevalkit": mathvision_vlmevalkit,
}
