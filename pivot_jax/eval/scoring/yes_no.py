"""Scorers of questions whose answer is yes or no. They differ in what they read in a sentence."""

from __future__ import annotations

import re

from pivot_jax.eval.scoring import parse
from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict

_WORDS = re.compile(r"[a-z]+")
_HEAD = 4  # characters in which MME looks for yes or no


def yes_no(answer: str, gold: Gold) -> Verdict:
    """Our own: the first word, if it is yes or no; else the only one of the two that the answer has as a word."""
    words = _WORDS.findall(parse.after_marker(answer))
    if words and words[0] in ("yes", "no"):
        return stated(words[0], gold)
    named = {"yes", "no"} & set(words)
    return stated(named.pop() if len(named) == 1 else "", gold)


def yes_no_negation(answer: str, gold: Gold) -> Verdict:
    """POPE's authors (Li et al. 2023), LLaVA: "no" if the first sentence holds "no" or "not", else "yes" ("" too)."""
    words = (answer or "").split(".")[0].replace(",", "").lower().split()
    return stated("no" if {"no", "not"} & set(words) else "yes", gold)


def yes_no_head(answer: str, gold: Gold) -> Verdict:
    """MME's authors (Fu et al. 2023), lmms-eval: the answer is yes or no, or its first four characters hold one."""
    text = (answer or "").lower().strip().replace(".", "")
    if text not in ("yes", "no"):
        text = next((word for word in ("yes", "no") if word in text[:_HEAD]), "")
    return stated(text, gold)


def stated(found: str, gold: Gold) -> Verdict:
    """The verdict on an answer in which a rule has read "yes", "no", or "" (nothing)."""
    return Verdict(found == parse.plain(gold.answer) != "", found)


SCORERS: dict[str, Scorer] = {
    "yes_no": yes_no,
    "yes_no_negation": yes_no_negation,
    "yes_no_head": yes_no_head,
}
