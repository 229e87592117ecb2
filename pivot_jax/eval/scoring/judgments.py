"""Scorers of questions that ask which of two answers is better; the correct one is A (the first) or B."""

from __future__ import annotations

import random
import re

from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict, named

_MARKER = re.compile(r"overall\s+judge?ment", re.IGNORECASE)
_BETTER = re.compile(
    r"\banswer\s*\(?([12])\)?\s+is\s+(?:(?!not\b)\w+\s+){0,3}(?:better|superior|preferred|preferable)\b", re.IGNORECASE
)
_ANSWER = re.compile(r"\banswer\s*\(?([12])\b", re.IGNORECASE)
_DENIED = re.compile(r"\b(?:not|neither|nor)\b|n't\b", re.IGNORECASE)
_BARE = re.compile(r"\A(?:answer)?\s*\(?([12])\)?[.:]?\Z", re.IGNORECASE)
# lmms-eval's pattern; line breaks are gone before it is used, so that ".*" matches the blanks around it as well.
_LMMS_EVAL = re.compile(
    r"(?:Overall Judgment|Therefore).*Answer\s*(\d+)\s*is\s*(?:the\s*)?(?:slightly\s*)?better", re.IGNORECASE
)
_LETTERS = {"1": "A", "2": "B"}
LONGEST = 18  # digits of a number that is looked at


def judgment(answer: str, gold: Gold) -> Verdict:
    """Our own: the last "Answer 1 is better" (superior, preferred) after the last "Overall Judgment".

    Without such a sentence there, the only answer that is named after it, unless with a "not"; without "Overall
    Judgment", that sentence anywhere, or an answer that is nothing but "Answer 1" or "1". No judge and no guess.
    """
    text = re.sub(r"[*_#`]", "", answer or "").strip()
    parts = _MARKER.split(text)
    stated = _BETTER.findall(parts[-1])
    if not stated:
        only = (
            _BARE.findall(text) if len(parts) == 1 else [] if _DENIED.search(parts[-1]) else _ANSWER.findall(parts[-1])
        )
        stated = only if len(set(only)) == 1 else []
    return named(_LETTERS[stated[-1]] if stated else "", gold)


def judgment_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """lmms-eval's VL-RewardBench: its pattern, else (without the model that it then asks) its guess of 1 or 2."""
    text = (answer or "").strip().replace("\n", "").replace("*", "")
    if found := _LMMS_EVAL.search(text):
        number = str(int(found[1])) if len(found[1]) <= LONGEST else found[1]
        return named(_LETTERS.get(number, number), gold)
    guess = named(random.Random(gold.id).choice("AB"), gold)
    return Verdict(float(guess), "", guessed=True)


SCORERS: dict[str, Scorer] = {"judgment": judgment, "judgment_lmms_eval": judgment_lmms_eval}
