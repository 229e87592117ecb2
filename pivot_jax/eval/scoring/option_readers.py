"""The letter that a toolkit reads in an answer to a multiple-choice question; "" where its rules find none.

These are the rules that a toolkit shares between benchmarks. What one benchmark alone has is in its own module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pivot_jax.eval.scoring.parse import LETTERS
from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict, named

# VLMEvalKit: these count as an answer, which is wrong.
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
NO_ANSWER = "Failed to obtain answer via API"
REFUSED = "Z"  # VLMEvalKit's letter for an answer that names no option
TAIL = 5  # words at the end of an answer in which VLMEvalKit takes a letter
_STATED = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))

# lmms-eval: what may come before a letter, each where it is first found. The letter is any one after it, however far.
PHRASES = (
    *(f"{the}{which} is" for which in ("answer", "correct answer", "best answer", "choice") for the in ("", "the ")),
    *(f"{the}{which} is" for which in ("correct option", "best option", "correct choice") for the in ("", "the ")),
    *("my answer is", "my choice is", "i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))  # written form of a letter → its rank
START, END, PHRASE = 10, 9, 7
_EDGES = (",", ".", "!", "?", ";", ":", "'", '"')


def by_letter(choices: Sequence[str]) -> dict[str, str]:
    """Options by letter; an option "" is left out."""
    return {letter: text for letter, text in zip(LETTERS, choices, strict=False) if text}


def vlmevalkit_letter(answer: str, choices: Mapping[str, str]) -> str:
    """VLMEvalKit's rules before it asks a judge; "" where it would ask, "Z" where it takes the answer for a refusal.

    In this order: the only option letter among the words, if it is one of the last five; the letter after "answer is"
    (A to D); the only option whose text the answer holds, if the answer is at most twice as long as all options.

    Args:
      choices: texts of the options by letter.
    """
    answer = answer or ""
    if NO_ANSWER not in answer:
        if any(refusal in answer for refusal in REFUSALS):
            return REFUSED
        words = answer.translate(_SEPARATORS).split()
        found = [letter for letter in choices if letter in words]
        if len(found) == 1 and words.index(found[0]) > len(words) - TAIL:
            return found[0]
        if not found and REFUSED in words:
            return REFUSED
        if (stated := _STATED.search(answer)) and stated[1].upper() in choices:
            return stated[1].upper()
    text = answer.lower()
    if len(text) > 2 * sum(map(len, choices.values())):
        return ""
    held = [letter for letter, option in choices.items() if option.lower() in text]
    return held[0] if len(held) == 1 else ""


def lmms_eval_letter(answer: str, letters: Sequence[str]) -> str:
    """lmms-eval's ``extract_mcq_answer``: of all letters in the answer the one of the highest rank, then the last.

    Ranks: at the start, at the end, after "the answer is" and the like, "(A)", "A.", "A:", "A)", "A ", anywhere.
    """
    text = (answer or "").strip()
    if not text:
        return ""
    for edge in _EDGES:
        text = text.strip(edge)
    text, bare = f" {text} ", text.strip()
    lowered = text.lower()
    ends = [lowered.find(phrase) + len(phrase) for phrase in PHRASES if phrase in lowered]
    found: list[tuple[int, int, str]] = []  # rank, position, letter; a tie goes to the letter that is looked for first
    for letter in letters:
        spelled = [(form.format(letter), rank) for form, rank in FORMS]
        found += [(rank, text.rfind(one), letter) for one, rank in spelled if one in text]
        found += [(PHRASE, text.find(letter, end), letter) for end in ends if letter in text[end:]]
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((START, 0, letter))
        if bare.endswith(letter) and not bare[:-1][-1:].isalpha():
            found.append((END, len(text) - 1, letter))
    if not found:
        found = [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, key=lambda one: one[:2], default=(0, 0, ""))[2]


def vlmevalkit_option(answer: str, gold: Gold) -> Verdict:
    """VLMEvalKit's multiple choice without a judge: what its rules leave open is wrong."""
    return named(vlmevalkit_letter(answer, by_letter(gold.choices)), gold)


def lmms_eval_option(answer: str, gold: Gold) -> Verdict:
    """lmms-eval's shared multiple choice (:func:`lmms_eval_letter`)."""
    return named(lmms_eval_letter(answer, list(by_letter(gold.choices))), gold)


SCORERS: dict[str, Scorer] = {
    "vlmevalkit_option": vlmevalkit_option,
    "lmms_eval_option": lmms_eval_option,
}
