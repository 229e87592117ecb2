"""Score of one answer: 0..1, without an exception for an empty or odd answer.

Toolkits score the same benchmark differently, so every scorer says whose formula it is; the paper's is Cambrian-1's
evaluation code. A scorer takes the model's answer and a :class:`Gold`. Scores that need several answers at once are in
``aggregate``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapidfuzz.distance import Levenshtein

from pivot_jax.eval.scoring import parse


@dataclass(frozen=True)
class Gold:
    """The correct answer that a model's answer is compared with."""

    answers: tuple[str, ...]  # accepted answers; a letter for multiple choice; ten for VQA
    choices: tuple[str, ...] = ()  # texts of the options, in letter order
    category: str = ""

    @property
    def answer(self) -> str:
        """The first accepted answer."""
        return self.answers[0] if self.answers else ""


def exact(answer: str, gold: Gold) -> float:
    """GQA, MME as Cambrian-1 scores them: equal after lower case and trailing full stops."""
    return float(any(parse.plain(answer) == parse.plain(accepted) for accepted in gold.answers))


def letter(answer: str, gold: Gold) -> float:
    """Cambrian-1's multiple choice (MMBench, SEED, AI2D, CV-Bench): first character of the cleaned answer."""
    return float(parse.letter(answer) == parse.letter(gold.answer) != "")


def strict_letter(answer: str, gold: Gold) -> float:
    """Our own multiple choice: a letter counts only where the answer names one, or is the text of one option."""
    return float(parse.strict_letter(answer, gold.choices or 26) == parse.letter(gold.answer) != "")


def letter_or_text(answer: str, gold: Gold) -> float:
    """MMVP as Cambrian-1 scores it: the whole cleaned answer is the letter, or the right option's text."""
    text, correct = parse.cambrian_text(answer), parse.letter(gold.answer)
    return float(text != "" and text in (correct.lower(), _choice(gold, correct).lower()))


def scienceqa(answer: str, gold: Gold) -> float:
    """ScienceQA as Cambrian-1 scores it: the text before the first full stop is the letter, or all is the option."""
    text, correct = parse.after_marker(answer).rstrip("."), parse.letter(gold.answer)
    option = parse.normalise(_choice(gold, correct))
    return float(text.split(".")[0].upper() == correct != "" or (option != "" and parse.normalise(text) == option))


def scienceqa_llava(answer: str, gold: Gold) -> float:
    """ScienceQA as LLaVA scores it: a bare letter, "B. text", or exactly one "The answer is B."; else wrong."""
    options = parse.LETTERS[: len(gold.choices) or 5]
    text = answer or ""
    if len(text) == 1 and text in options:
        found = text
    elif len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        found = text[0]
    else:
        named = re.findall(r"The answer is ([A-Z])\.", text)
        found = named[0] if len(named) == 1 else ""
    return float(found == parse.letter(gold.answer) != "")


def relaxed(answer: str, gold: Gold, tolerance: float = 0.05) -> float:
    """ChartQA's relaxed accuracy (Masry et al. 2022): within 5 % of a numeric gold, else equal in lower case.

    "12%" is 0.12, as in lmms-eval, and "1,234" is a number too. Cambrian-1 takes neither for a number.
    """
    return float(any(_relaxed_one(answer or "", accepted, tolerance) for accepted in gold.answers))


def substring(answer: str, gold: Gold) -> float:
    """OCRBench (Liu et al. 2023): the answer contains an accepted one (handwritten formulas: no blanks, case kept)."""
    if gold.category == "Handwritten Mathematical Expression Recognition":
        clean: Callable[[str], str] = lambda text: text.strip().replace("\n", " ").replace(" ", "")  # noqa: E731
    else:
        clean = lambda text: text.lower().strip().replace("\n", " ")  # noqa: E731
    text = clean(answer or "")
    return float(text != "" and any(clean(accepted) in text for accepted in gold.answers))


def contains_words(answer: str, gold: Gold) -> float:
    """MultimodalOCR's VQA sets: the answer contains some gold as whole words, both EvalAI-normalised."""
    text = parse.evalai(answer)
    return float(any(_has_words(text, parse.evalai(accepted)) for accepted in gold.answers))


def contains_text(answer: str, gold: Gold) -> float:
    """MultimodalOCR's text recognition sets: as :func:`contains_words`, with all but letters and digits removed."""
    clean: Callable[[str], str] = lambda text: re.sub(r"[^a-zA-Z0-9\s]", "", text or "").lower()  # noqa: E731
    return float(any(_has_words(clean(answer), clean(accepted)) for accepted in gold.answers))


def vqa(answer: str, gold: Gold) -> float:
    """VQA soft accuracy over ten annotators: mean over leave-one-out sets of min(1, matches / 3), EvalAI-normalised.

    Source: Antol et al. 2015, as EvalAI computes it.
    """
    text = parse.evalai(answer)
    golds = [parse.evalai(accepted) for accepted in gold.answers]
    if not golds or not text:
        return 0.0
    if len(golds) == 1:
        return float(text == golds[0])
    matches = golds.count(text)
    # Leaving out a matching annotator leaves matches - 1; leaving out another leaves all of them.
    left_out = matches * min(1.0, (matches - 1) / 3) + (len(golds) - matches) * min(1.0, matches / 3)
    return left_out / len(golds)


def anls(answer: str, gold: Gold, threshold: float = 0.5) -> float:
    """DocVQA: 1 − normalised edit distance to the nearest gold, 0 where below τ = 0.5 (Biten et al. 2019)."""
    text = " ".join((answer or "").strip().lower().split())
    scores = [0.0]
    for accepted in gold.answers:
        target = " ".join(accepted.strip().lower().split())
        longest = max(len(text), len(target))
        if text and longest:
            similarity = 1 - Levenshtein.distance(text, target) / longest
            scores.append(similarity if similarity >= threshold else 0.0)
    return max(scores)


def yes_no(answer: str, gold: Gold) -> float:
    """POPE as its authors score it, see :func:`read_yes_no`; Cambrian-1 compares the first word of the answer."""
    return float(read_yes_no(answer) == parse.plain(gold.answer))


def read_yes_no(answer: str) -> str:
    """As POPE's authors read it (Li et al. 2023): "no" if the first sentence holds a negation, else "yes" ("" too)."""
    words = (answer or "").split(".")[0].replace(",", "").lower().split()
    return "no" if {"no", "not"} & set(words) else "yes"


def _has_words(text: str, words: str) -> bool:
    # A gold that normalises to nothing ("the") matches any text with a word in it, as in the scorer of that suite.
    return re.search(rf"\b{re.escape(words)}\b", text) is not None


def _relaxed_one(answer: str, accepted: str, tolerance: float) -> bool:
    number, target = parse.number(answer), parse.number(accepted)
    if number is not None and target is not None:
        return abs(number - target) <= tolerance * abs(target)
    return answer.strip().lower() == accepted.strip().lower()


def _choice(gold: Gold, letter: str) -> str:
    """Text of the option with that letter, "" where there is none."""
    index = parse.LETTERS.find(letter) if letter else -1
    return gold.choices[index] if 0 <= index < len(gold.choices) else ""


Scorer = Callable[[str, Gold], float]

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
    "yes_no": yes_no,
}


def gold_of(row: Mapping[str, Any]) -> Gold:
    """Gold of a row of a predictions file (``gt_answer`` text or list, ``choices``, ``category``)."""
    accepted = row.get("gt_answer", "")
    answers: Sequence[Any] = accepted if isinstance(accepted, list | tuple) else [accepted]
    choices = row.get("choices") or ()
    return Gold(tuple(map(str, answers)), tuple(map(str, choices)), str(row.get("category", "")))
