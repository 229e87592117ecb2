"""MMMU (Yue et al. 2024): letters, and short answers to open questions. A gold without choices is an open question.

The authors' parser draws an option at random where it finds none. Such draws are seeded here by the question's id and
marked, so that the score without them can stand beside it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from pivot_jax.eval.scoring import parse
from pivot_jax.eval.scoring.mathvista import within
from pivot_jax.eval.scoring.option_readers import by_letter, only_option, vlmevalkit_letter
from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict, named
from pivot_jax.eval.scoring.solutions import final_answer, last_line
from pivot_jax.eval.scoring.values import equal_value, python_float

WORDS = 5  # the parser looks for an option's text in longer answers only
KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
TRIVIAL = frozenset(":,.!?;'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
_MARKERS = ("answer is", "answer is:", "answer:")  # Cambrian-1's order: the second one never finds anything


def mmmu(answer: str, gold: Gold) -> Verdict:
    """Our own: the letter or text of an option that the answer names; else the final answer's value or words."""
    final = final_answer(answer)
    if gold.choices:
        texts = (final, last_line(answer), answer)
        ways = (read(text, gold.choices) for read in (parse.strict_letter, only_option) for text in texts)
        return named(next(filter(None, ways), ""), gold)
    words = f" {parse.normalise(final)} "
    known = [f" {parse.normalise(accepted)} " for accepted in gold.answers]
    held = any(word.strip() and word in words for word in known)
    return Verdict(held or any(equal_value(final, accepted) for accepted in gold.answers), final)


def mmmu_official(answer: str, gold: Gold) -> Verdict:
    """The authors' (Yue et al. 2024): the last letter that stands alone, else the last option's text, else a guess."""
    return _official(answer, gold, official_letter)


def mmmu_no_guess(answer: str, gold: Gold) -> Verdict:
    """The authors' (Yue et al. 2024) without the guess: an answer in which they find nothing is wrong."""
    verdict = mmmu_official(answer, gold)
    return Verdict(0.0) if verdict.guessed else verdict


def mmmu_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """lmms-eval's (0.7.3): as the authors', but any word that ends with the letter counts, and "A." where none does.

    An open question with several golds has them as one text there, ``"['1/2', '0.5']"``, which no answer holds.
    """
    published = gold.fields.get("published_answer")
    golds = gold.answers if published is None else (str(published),)
    return _official(answer, gold, lmms_eval_letter, golds)


def mmmu_lmms_eval_072(answer: str, gold: Gold) -> Verdict:
    """lmms-eval's up to 0.7.2: as :func:`mmmu_lmms_eval`, with every open question wrong."""
    return mmmu_lmms_eval(answer, gold) if gold.choices else Verdict(0.0)


def mmmu_vlmevalkit(answer: str, gold: Gold) -> Verdict:
    """VLMEvalKit's without a judge. An open question has two options there: its gold, and the text "Other Answers"."""
    known = by_letter(gold.choices)
    published = str(gold.fields.get("published_answer", gold.answer))
    if "A" in known:
        return named(vlmevalkit_letter(answer, known), gold)
    known = {"A": published, "B": "Other Answers"} | {letter: known[letter] for letter in known if letter > "B"}
    read = vlmevalkit_letter(answer, known)
    return Verdict(read == (published if published in parse.LETTERS else "A"), read)


def mmmu_cambrian(answer: str, gold: Gold) -> Verdict:
    """Cambrian-1's: the first character after "answer is"; open questions: the same text, or within 5 %."""
    text = (answer or "").lower().strip()
    for marker in _MARKERS:
        text = text.split(marker)[-1]
    text = text.strip()
    if gold.choices:
        return named(text.rstrip(".:,").lstrip("(").rstrip(")")[:1].upper(), gold)
    text, target = text.rstrip("."), str(gold.fields.get("published_answer", gold.answer)).lower()
    return Verdict(text == target != "" or within(text, target), text)


def official_letter(answer: str, choices: Sequence[str]) -> str:
    """The letter that MMMU's own parser finds, "" where it would guess."""
    return _last_named(answer, choices, lambda letter, text: f" {letter} " in text)


def lmms_eval_letter(answer: str, choices: Sequence[str]) -> str:
    """The letter that lmms-eval's parser of MMMU finds, "" where it would guess."""
    ends = lambda letter, text: f"{letter} " in text  # noqa: E731
    dotted = lambda letter, text: f"{letter}." in text  # noqa: E731
    return _last_named(answer, choices, ends, dotted)


def _last_named(answer: str, choices: Sequence[str], *alone: Callable[[str, str], bool]) -> str:
    text = answer or ""
    for char in ",.!?;:'":
        text = text.strip(char)
    text, known = f" {text} ", dict(zip(parse.LETTERS, choices, strict=False))
    ways: list[tuple[Callable[[str, str], bool], Callable[[str], int]]] = [
        (lambda letter, text: f"({letter})" in text, lambda letter: text.rfind(f"({letter})"))
    ]
    ways += [(stands, lambda letter: text.rfind(f" {letter} ")) for stands in alone]
    if len(text.split()) > WORDS:
        lowered = text.lower()
        ways.append(
            (lambda letter, _: known[letter].lower() in lowered, lambda letter: lowered.rfind(known[letter].lower()))
        )
    for stands, position in ways:
        if found := [letter for letter in known if stands(letter, text)]:
            return max(found, key=position)  # the first one of several at the same place
    return ""


def _official(
    answer: str, gold: Gold, read: Callable[[str, Sequence[str]], str], golds: Sequence[str] | None = None
) -> Verdict:
    if not gold.choices:
        found = open_candidates(answer)
        right = open_right(found, gold.answers if golds is None else golds)
        return Verdict(right, str(found[0]).strip() if found else "")
    letter = read(answer, gold.choices)
    if letter:
        return named(letter, gold)
    drawn = random.Random(gold.id).choice(parse.LETTERS[: len(gold.choices)])
    return Verdict(drawn == gold.answer, "", guessed=True)


def open_candidates(answer: str) -> list[str | float]:
    """What MMMU's own parser takes for the answer to an open question: ends of sentences, and the numbers in them."""
    text = (answer or "").strip().strip(".").lower()
    # The parser would also split at full stops before a capital, but the text is in lower case by then.
    lines, found = text.split("\n"), []
    for index, line in enumerate(lines):
        keys = (*KEYS, "=") if index == len(lines) - 1 else KEYS
        ends = [line.split(key)[-1].strip() for key in keys if key in line]
        # The shortest one; an empty one is replaced by whatever comes next.
        shortest = ""
        for end in ends:
            shortest = end if not shortest or len(end) < len(shortest) else shortest
        if shortest and shortest not in TRIVIAL:
            found.append(shortest)
    found = found or [text]
    numbers = [number for one in found for pattern in _NUMBERS for number in pattern.findall(one)]
    return list(dict.fromkeys(form for one in (*found, *numbers) for form in _forms(one)))


def open_right(candidates: Sequence[str | float], golds: Sequence[str]) -> bool:
    """Whether a candidate holds the text of a gold, or is its number to two decimals."""
    accepted = [form for gold in golds for form in _forms(gold)]
    texts = [form for form in accepted if isinstance(form, str)]
    return any(
        any(text in one for text in texts) if isinstance(one, str) else one in accepted for one in candidates
    )  # fmt: skip


def _forms(text: str) -> list[str | float]:
    """A number rounded to two decimals, else the text in lower case; a single letter needs a blank beside it."""
    text = text.strip()
    number = python_float(text.replace(",", ""))
    if number is not None:
        return [round(number, 2)]
    text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


SCORERS: dict[str, Scorer] = {
    "mmmu": mmmu,
    "mmmu_official": mmmu_official,
    "mmmu_no_guess": mmmu_no_guess,
    "mmmu_lmms_eval": mmmu_lmms_eval,
    "mmmu_lmms_eval_072": mmmu_lmms_eval_072,
    "mmmu_vlmevalkit": mmmu_vlmevalkit,
    "mmmu_cambrian": mmmu_cambrian,
}
