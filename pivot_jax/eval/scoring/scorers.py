"""Score of one answer: 0..1, without an exception for an empty or odd answer.

Toolkits score the same benchmark differently, so every scorer says whose formula it is; the paper's is Cambrian-1's
evaluation code. A scorer takes the model's answer and a :class:`Gold` and gives a :class:`Verdict`. Scores that need
several answers at once are in ``aggregate``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rapidfuzz.distance import Levenshtein

from pivot_jax.eval.scoring import parse

HANDWRITTEN = "Handwritten Mathematical Expression Recognition"  # the type of OCRBench's formulas
RELAXED = 0.05  # relative distance of a number in ChartQA
LLAVA_LETTERS = "ABCDE"


@dataclass(frozen=True)
class Gold:
    """The correct answer that a model's answer is compared with."""

    answers: tuple[str, ...]  # accepted answers; a letter for multiple choice; ten for VQA
    choices: tuple[str, ...] = ()  # texts of the options, in letter order
    category: str = ""
    id: str = ""  # of the question; seeds a guess
    fields: Mapping[str, Any] = field(default_factory=dict)  # what else a toolkit's rule reads (precision, unit, …)
    ranked: str = ""  # the option that the model finds most likely, where options were ranked

    @property
    def answer(self) -> str:
        """The first accepted answer."""
        return self.answers[0] if self.answers else ""


class Verdict(float):
    """The score of an answer, 0..1, and what was read in it.

    Attributes:
      read: what the scorer took for the answer, such as a letter; "" where it found nothing in the text.
      guessed: the rule draws an option at random where it finds nothing, and did so here.
    """

    read: str
    guessed: bool

    def __new__(cls, score: float, read: str = "", guessed: bool = False) -> Verdict:
        verdict = super().__new__(cls, score)
        verdict.read, verdict.guessed = read, guessed
        return verdict


def exact(answer: str, gold: Gold) -> Verdict:
    """GQA, MME as Cambrian-1 scores them: equal after lower case and trailing full stops."""
    text = parse.plain(answer)
    return Verdict(any(text == parse.plain(accepted) for accepted in gold.answers), text)


def letter(answer: str, gold: Gold) -> Verdict:
    """Cambrian-1's multiple choice (MMBench, SEED, AI2D, CV-Bench): first character of the cleaned answer."""
    return named(parse.letter(answer), gold)


def strict_letter(answer: str, gold: Gold) -> Verdict:
    """Our own multiple choice: a letter counts only where the answer names one, or is the text of one option."""
    return named(parse.strict_letter(answer, gold.choices or 26), gold)


def letter_or_text(answer: str, gold: Gold) -> Verdict:
    """MMVP as Cambrian-1 scores it: the whole cleaned answer is the letter, or the right option's text."""
    text, correct = parse.cambrian_text(answer), parse.letter(gold.answer)
    return Verdict(text != "" and text in (correct.lower(), choice(gold, correct).lower()), text)


def scienceqa(answer: str, gold: Gold) -> Verdict:
    """ScienceQA as Cambrian-1 scores it: the text before the first full stop is the letter, or all is the option."""
    text, correct = parse.after_cambrian_marker(answer).rstrip("."), parse.letter(gold.answer)
    option = parse.normalise(choice(gold, correct))
    right = text.split(".")[0].upper() == correct != "" or (option != "" and parse.normalise(text) == option)
    return Verdict(right, text)


def scienceqa_llava(answer: str, gold: Gold) -> Verdict:
    """ScienceQA as LLaVA scores it: a bare letter A to E, "B. text", or exactly one "The answer is B."; else wrong."""
    text = answer or ""
    if (len(text) == 1 or text[1:3] == ". ") and text[0] in LLAVA_LETTERS:
        found = text[0]
    else:
        stated = re.findall(r"The answer is ([A-Z]).", text)  # any character may follow, but one has to
        found = stated[0] if len(stated) == 1 else ""
    return named(found, gold)


def relaxed(answer: str, gold: Gold, tolerance: float = RELAXED) -> Verdict:
    """ChartQA's relaxed accuracy (Masry et al. 2022): within 5 % of a numeric gold, else equal in lower case.

    "12%" is 0.12, as in lmms-eval, and "1,234" is a number too. Cambrian-1 takes neither for a number.
    """
    text = answer or ""
    return Verdict(any(_relaxed_one(text, accepted, tolerance) for accepted in gold.answers), text.strip())


def substring(answer: str, gold: Gold) -> Verdict:
    """OCRBench (Liu et al. 2023): the answer contains an accepted one (handwritten formulas: no blanks, case kept)."""
    if gold.category == HANDWRITTEN:
        clean: Callable[[str], str] = lambda text: text.strip().replace("\n", " ").replace(" ", "")  # noqa: E731
    else:
        clean = lambda text: text.lower().strip().replace("\n", " ")  # noqa: E731
    text = clean(answer or "")
    return Verdict(text != "" and any(clean(accepted) in text for accepted in gold.answers), text)


def contains_words(answer: str, gold: Gold) -> Verdict:
    """MultimodalOCR's VQA sets: the answer contains some gold as whole words, both EvalAI-normalised."""
    text = parse.evalai(answer)
    return Verdict(any(_has_words(text, parse.evalai(accepted)) for accepted in gold.answers), text)


def contains_text(answer: str, gold: Gold) -> Verdict:
    """MultimodalOCR's text recognition sets: as :func:`contains_words`, with all but letters and digits removed."""
    clean: Callable[[str], str] = lambda text: re.sub(r"[^a-zA-Z0-9\s]", "", text or "").lower()  # noqa: E731
    text = clean(answer)
    return Verdict(any(_has_words(text, clean(accepted)) for accepted in gold.answers), text)


def vqa(answer: str, gold: Gold) -> Verdict:
    """VQA soft accuracy over ten annotators: mean over leave-one-out sets of min(1, matches / 3), EvalAI-normalised.

    Source: Antol et al. 2015, as EvalAI computes it.
    """
    text = parse.evalai(answer)
    return Verdict(leave_one_out(text, [parse.evalai(accepted) for accepted in gold.answers]), text)


def leave_one_out(text: str, golds: Sequence[str]) -> float:
    """Mean over the annotators of min(1, matches among the others / 3); of a single gold, whether it is equal.

    Args:
      text, golds: normalised. An answer of which nothing is left ("the") equals a gold of which nothing is left ("a").
    """
    if len(golds) < 2:
        return float(text in golds)
    matches = golds.count(text)
    # Leaving out a matching annotator leaves matches - 1; leaving out another leaves all of them.
    left_out = matches * min(1.0, (matches - 1) / 3) + (len(golds) - matches) * min(1.0, matches / 3)
    return left_out / len(golds)


def anls(answer: str, gold: Gold, threshold: float = 0.5) -> Verdict:
    """DocVQA: 1 − normalised edit distance to the nearest gold, 0 where below τ = 0.5 (Biten et al. 2019)."""
    text = spaced(answer or "")
    scores = [0.0]
    for accepted in gold.answers:
        target = spaced(accepted)
        longest = max(len(text), len(target))
        if text and longest:
            similarity = 1 - Levenshtein.distance(text, target) / longest
            scores.append(similarity if similarity >= threshold else 0.0)
    return Verdict(max(scores), text)


def spaced(text: str) -> str:
    """In lower case, with single blanks between the words."""
    return " ".join(text.lower().split())


def ranked(answer: str, gold: Gold) -> Verdict:
    """Our own multiple choice without a format: the option that the model finds most likely, whatever it wrote."""
    return Verdict(gold.ranked != "" and parse.plain(gold.ranked) == parse.plain(gold.answer), gold.ranked)


def named(letter: str, gold: Gold) -> Verdict:
    """The verdict on an answer in which a rule has read this letter, or "" where it has read none."""
    return Verdict(letter == parse.letter(gold.answer) != "", letter)


def _has_words(text: str, words: str) -> bool:
    # A gold that normalises to nothing ("the") matches any text with a word in it, as in the scorer of that suite.
    return re.search(rf"\b{re.escape(words)}\b", text) is not None


def _relaxed_one(answer: str, accepted: str, tolerance: float) -> bool:
    number, target = parse.number(answer), parse.number(accepted)
    if number is not None and target is not None:
        return abs(number - target) <= tolerance * abs(target)
    return answer.strip().lower() == accepted.strip().lower()


def choice(gold: Gold, letter: str) -> str:
    """Text of the option with that letter, "" where there is none."""
    index = parse.LETTERS.find(letter) if letter else -1
    return gold.choices[index] if 0 <= index < len(gold.choices) else ""


Scorer = Callable[[str, Gold], Verdict]

SCORERS: dict[str, Scorer] = {
    "exact": exact,
    "letter": letter,
    "strict_letter": strict_letter,
    "letter_or_text": letter_or_text,
    "scienceqa": scienceqa,
    "scienceqa_llava": scienceqa_llava,
    "relaxed": relaxed,
    "substring": substring,
    "contains_words": contains_words,
    "contains_text": contains_text,
    "vqa": vqa,
    "anls": anls,
    "ranked": ranked,
}


def gold_of(row: Mapping[str, Any]) -> Gold:
    """Gold of a row of a predictions file (``gt_answer`` text or list, ``choices``, ``category``, ``fields``, …)."""
    accepted = row.get("gt_answer", "")
    answers: Sequence[Any] = accepted if isinstance(accepted, list | tuple) else [accepted]
    return Gold(
        tuple(map(str, answers)),
        tuple(map(str, row.get("choices") or ())),
        str(row.get("category", "")),
        str(row.get("question_id", "")),
        row.get("fields") or {},
        str(row.get("ranked") or ""),
    )
