"""Scorers of questions whose answer is yes or no. They differ in what they read in a sentence."""

from __future__ import annotations

import re

from pivot_jax.eval.scoring import parse
from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict, named

_WORDS = re.compile(r"[a-z]+")
_YES_OR_NO = re.compile(r"\b(?:yes|no)\b", re.IGNORECASE)
_A_OR_B = re.compile(r"\b[AB]\b", re.IGNORECASE)
_HEAD = 4  # characters in which MME looks for yes or no
_INITIALS = {"y": "yes", "n": "no"}


def yes_no(answer: str, gold: Gold) -> Verdict:
    """Our own: the first word, if it is yes or no; else the only one of the two that the answer has as a word."""
    words = _WORDS.findall(parse.after_marker(answer))
    if words and words[0] in ("yes", "no"):
        return stated(words[0], gold)
    said = {"yes", "no"} & set(words)
    return stated(said.pop() if len(said) == 1 else "", gold)


def yes_no_negation(answer: str, gold: Gold) -> Verdict:
    """POPE's authors (Li et al. 2023), LLaVA: "no" if the first sentence holds "no" or "not", else "yes" ("" too)."""
    words = (answer or "").split(".")[0].replace(",", "").lower().split()
    return stated("no" if {"no", "not"} & set(words) else "yes", gold)


def yes_no_head(answer: str, gold: Gold) -> Verdict:
    """MME's authors (Fu et al. 2023), lmms-eval: yes, no, y or n, or yes or no in the first four characters."""
    text = (answer or "").lower().strip().replace(".", "")
    if text not in ("yes", "no"):
        text = _INITIALS.get(text) or next((word for word in ("yes", "no") if word in text[:_HEAD]), "")
    return stated(text, gold)


def yes_no_words(answer: str, gold: Gold) -> Verdict:
    """VLMEvalKit (MME, POPE, HallusionBench), no judge: the only one of yes and no that the answer has as a word."""
    words = {"yes", "no"} & set(parse.words_vlmevalkit((answer or "").lower()).split())
    return stated(words.pop() if len(words) == 1 else "", gold)


def yes_no_alone(answer: str, gold: Gold) -> Verdict:
    """POPE as lmms-eval scores it: the answer is yes or no, in any case, and nothing else; "Yes." is wrong."""
    text = (answer or "").lower().strip()
    return stated(text if text in ("yes", "no") else "", gold)


def yes_no_first(answer: str, gold: Gold) -> Verdict:
    """POPE as Cambrian-1 scores it: the first word is yes or no. (It fails on an empty answer; here that is wrong.)"""
    first = next(iter((answer or "").lower().split()), "").rstrip(".:,")
    return stated(first if first in ("yes", "no") else "", gold)


def yes_no_negation_llava(answer: str, gold: Gold) -> Verdict:
    """POPE as LLaVA scores it: "no" if "No", "no" or "not" is a word of the first sentence, else "yes" ("NO" too)."""
    words = (answer or "").split(".")[0].replace(",", "").split(" ")
    return stated("no" if {"No", "no", "not"} & set(words) else "yes", gold)


def yes_no_within(answer: str, gold: Gold) -> Verdict:
    """HallusionBench by lmms-eval's rule without a judge: "yes" if the answer holds it, else "no" ("" too)."""
    return stated("yes" if "yes" in (answer or "").lower() else "no", gold)


def first_of_two(answer: str, gold: Gold) -> Verdict:
    """NaturalBench (Li et al. 2024), lmms-eval, VLMEvalKit: the first of yes and no, or of A and B, in any case."""
    letters = parse.plain(gold.answer) not in ("yes", "no")
    found = (_A_OR_B if letters else _YES_OR_NO).search(answer or "")
    text = found[0] if found else ""
    return named(text.upper(), gold) if letters else stated(text.lower(), gold)


def yes_no_or_letter(answer: str, gold: Gold) -> Verdict:
    """Our own for NaturalBench: :func:`yes_no`, and for the questions with two options ``scorers.strict_letter``."""
    if parse.plain(gold.answer) in ("yes", "no"):
        return yes_no(answer, gold)
    return named(parse.strict_letter(answer, gold.choices or 2), gold)


def stated(found: str, gold: Gold) -> Verdict:
    """The verdict on an answer in which a rule has read "yes", "no", or "" (nothing)."""
    return Verdict(found == parse.plain(gold.answer) != "", found)


SCORERS: dict[str, Scorer] = {
    "yes_no": yes_no,
    "yes_no_negation": yes_no_negation,
    "yes_no_negation_llava": yes_no_negation_llava,
    "yes_no_head": yes_no_head,
    "yes_no_words": yes_no_words,
    "yes_no_alone": yes_no_alone,
    "yes_no_first": yes_no_first,
    "yes_no_within": yes_no_within,
    "first_of_two": first_of_two,
    "yes_no_or_letter": yes_no_or_letter,
}
