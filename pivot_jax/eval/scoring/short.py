"""Scorers of short answers (GQA, ChartQA, TextVQA, DocVQA, OCRBench, MME) as the toolkits compute them.

``scorers`` has the benchmarks' own formulas. The toolkits differ from them, and from each other, in blanks,
punctuation, numbers and denominators.
"""

from __future__ import annotations

import string

from rapidfuzz.distance import Levenshtein

from pivot_jax.eval.scoring import parse, scorers
from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# "！" … "～" are "!" … "~" in full width; "\u3000" is the blank of that width.
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def exact_cambrian(answer: str, gold: Gold) -> Verdict:
    """GQA, MME as Cambrian-1 scores them, GQA as LLaVA does: equal in lower case, full stops at the end left out."""
    text = (answer or "").lower().rstrip(".")
    return Verdict(any(text == accepted.lower() for accepted in gold.answers), text)


def exact_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """GQA as lmms-eval scores it: equal in lower case without punctuation; blanks count."""
    text = _bare(answer or "")
    return Verdict(any(text == _bare(accepted) for accepted in gold.answers), text)


def exact_vlmevalkit(answer: str, gold: Gold) -> Verdict:
    """GQA as VLMEvalKit scores it: equal in lower case without blanks around it; "cat." is not "cat"."""
    text = (answer or "").strip().lower()
    return Verdict(any(text == accepted.strip().lower() for accepted in gold.answers), text)


def relaxed_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """ChartQA as lmms-eval scores it: within 5 % of a number but 0 ("12%" is 0.12), else equal in lower case."""
    text = answer or ""
    return Verdict(any(_relaxed(text, accepted) for accepted in gold.answers), text.strip())


def relaxed_vlmevalkit(answer: str, gold: Gold) -> Verdict:
    """ChartQA as VLMEvalKit scores it: as lmms-eval, without blanks around the answer."""
    return relaxed_lmms_eval((answer or "").strip(), gold)


def relaxed_cambrian(answer: str, gold: Gold) -> Verdict:
    """ChartQA as Cambrian-1 scores it: within 5 % of a number, else equal in lower case; "12%" is no number."""
    text = (answer or "").lower()
    return Verdict(any(_within(text, accepted.lower()) for accepted in gold.answers), text.strip())


def substring_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """OCRBench as lmms-eval scores it: as ``scorers.substring``, full-width letters as ASCII but in formulas."""
    if gold.category == scorers.HANDWRITTEN:
        return scorers.substring((answer or "").strip(), gold)
    folded = Gold(tuple(one.translate(_HALF_WIDTH) for one in gold.answers), category=gold.category)
    return scorers.substring((answer or "").strip().translate(_HALF_WIDTH), folded)


def vqa_vlmevalkit(answer: str, gold: Gold) -> Verdict:
    """TextVQA as VLMEvalKit scores it: ``scorers.vqa`` with its own normaliser (see ``parse.vqa_vlmevalkit``)."""
    text = parse.vqa_vlmevalkit(answer)
    return Verdict(scorers.leave_one_out(text, list(map(parse.vqa_vlmevalkit, gold.answers))), text)


def anls_toolkits(answer: str, gold: Gold, threshold: float = 0.5) -> Verdict:
    """DocVQA as lmms-eval and VLMEvalKit score it: ``scorers.anls``, divided by the lengths with all blanks."""
    text, raw = scorers.spaced(answer or ""), len(answer or "")
    lengths = [max(raw, len(accepted)) for accepted in gold.answers]
    targets = map(scorers.spaced, gold.answers)
    apart = [
        Levenshtein.distance(text, target) / length if length else 0.0
        for target, length in zip(targets, lengths, strict=True)
    ]
    similarity = 1 - min(apart, default=1.0)
    return Verdict(similarity if similarity >= threshold else 0.0, text)


def _bare(text: str) -> str:
    return text.lower().translate(_NO_PUNCTUATION)


def _relaxed(text: str, accepted: str) -> bool:
    number, target = _number(text), _number(accepted)
    if number is None or not target:  # 0 has no relative distance
        return text.lower() == accepted.lower()
    return abs(number - target) / abs(target) <= scorers.RELAXED


def _within(text: str, accepted: str) -> bool:
    number, target = _plain_number(text), _plain_number(accepted)
    if number is None or target is None:
        return text == accepted
    return abs(number - target) <= scorers.RELAXED * abs(target)


def _number(text: str) -> float | None:
    """As the toolkits: what Python takes for a number, also before percent signs."""
    if not text.endswith("%"):
        return _plain_number(text)
    value = _plain_number(text.rstrip("%"))
    return None if value is None else value / 100


def _plain_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


SCORERS: dict[str, Scorer] = {
    "exact_cambrian": exact_cambrian,
    "exact_lmms_eval": exact_lmms_eval,
    "exact_vlmevalkit": exact_vlmevalkit,
    "relaxed_lmms_eval": relaxed_lmms_eval,
    "relaxed_vlmevalkit": relaxed_vlmevalkit,
    "relaxed_cambrian": relaxed_cambrian,
    "substring_lmms_eval": substring_lmms_eval,
    "vqa_vlmevalkit": vqa_vlmevalkit,
    "anls_toolkits": anls_toolkits,
}
