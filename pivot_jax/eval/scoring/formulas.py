r"""Answers that are formulas (Geometry3K, MathVerse, MM-Math), equal as mathematics to the gold.

Whether two formulas are equal is decided as for the reward ``math`` of online RL (:mod:`.equality`), within limits of
time and memory; what exceeds these is wrong.
"""

from __future__ import annotations

import re

from pivot_jax.eval.scoring import parse
from pivot_jax.eval.scoring.formula_process import compared
from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict, named
from pivot_jax.eval.scoring.solutions import boxed, final_answer

LONGEST = 2000  # characters of a text that is parsed
MULTIPLE_CHOICE = "multi-choice"  # MathVerse's question_type
_FOUR = "ABCD"
_LETTERS_ONLY = re.compile(r"[\s,;]*(?:(?:and|or)\s+)?\(?([A-Z])\)?[.:)]?(?=[\s,;]|$)")
# Geometry3K in lmms-eval: the last match of the first pattern that has any.
_GEOMETRY3K = tuple(
    re.compile(pattern)
    for pattern in (
        r"[Aa]nswer\s*[:=]\s*\(?([A-Da-d])\)?",
        r"\b([A-Da-d])\s*[.)\]]",
        r"^\s*\(?([A-Da-d])\)?$",
        r"\b([A-Da-d])\b",
    )
)


def formula(answer: str, gold: Gold) -> Verdict:
    """Our own: the final answer (in a box, after "answer is", or the last line) equals the gold as mathematics."""
    return _equal(final_answer(answer), gold)


def boxed_formula(answer: str, gold: Gold) -> Verdict:
    r"""Our own, and EasyR1's protocol with our judge: what is in the last ``\boxed{}`` equals the gold."""
    return _equal(boxed(answer or ""), gold)


def mathverse(answer: str, gold: Gold) -> Verdict:
    """Our own MathVerse: the letters of multiple choice, which may be several; else as ``formula``."""
    final = final_answer(answer)
    if gold.fields.get("question_type") != MULTIPLE_CHOICE:
        return _equal(final, gold)
    wanted = _letters(gold.answer)
    found = _letters(answer or "") or _letters(final)
    if not found and len(wanted) == 1:
        letter = parse.strict_letter(final, gold.choices or len(parse.LETTERS))
        found = letter or parse.strict_letter(answer, gold.choices or len(parse.LETTERS))
    return Verdict(found == wanted != "", found)


def mathverse_exact(answer: str, gold: Gold) -> Verdict:
    """MathVerse without the judge that lmms-eval and VLMEvalKit ask: the whole answer is the gold, exactly."""
    text = (answer or "").strip()
    return Verdict(text == gold.answer.strip() != "", text)


def geometry3k_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """Geometry3K with four choices as lmms-eval scores it: a letter A to D in either case, else an option's text.

    "a" counts as a word, so "It is a circle" is read as A.
    """
    text = (answer or "").strip()
    for pattern in _GEOMETRY3K:
        if found := pattern.findall(text):
            return named(found[-1].upper(), gold)
    held = (letter for letter, option in zip(_FOUR, gold.choices, strict=False) if option.lower() in text.lower())
    return named(next(held, ""), gold)


def mm_math_vlmevalkit(answer: str, gold: Gold) -> Verdict:
    """MM-Math as VLMEvalKit scores it (:mod:`.formula_judge`), on all boxes of the answer, or on all of it."""
    text = answer or ""
    right = text.strip() != "" and len(text) <= 10 * LONGEST and bool(compared("formula_judge", gold.answer, text))
    return Verdict(right, text.strip())


def _equal(found: str, gold: Gold) -> Verdict:
    if not found or len(found) > LONGEST:
        return Verdict(0.0)
    right = any(found == accepted or compared("equal", found, accepted) for accepted in gold.answers)
    return Verdict(right, found)


def _letters(text: str) -> str:
    """The letters of a text that holds nothing else ("A, C", "C\\nD"), in their order; "" for any other text."""
    text, found, at = text.strip(), [], 0
    while at < len(text):
        match = _LETTERS_ONLY.match(text, at)
        if match is None:
            return ""
        found.append(match[1])
        at = match.end()
    return "".join(sorted(set(found)))


SCORERS: dict[str, Scorer] = {
    "formula": formula,
    "boxed_formula": boxed_formula,
    "mathverse": mathverse,
    "mathverse_exact": mathverse_exact,
    "geometry3k_lmms_eval": geometry3k_lmms_eval,
    "mm_math_vlmevalkit": mm_math_vlmevalkit,
}
