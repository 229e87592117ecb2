"""Option letters as single benchmarks of a toolkit read them; rules that benchmarks share are in ``option_readers``.

The name of a scorer ends with the toolkit whose rule it is. A benchmark that is not named here is scored in that
toolkit by a rule of ``option_readers`` or ``scorers``.
"""

from __future__ import annotations

import re
import string

from pivot_jax.eval.scoring import parse
from pivot_jax.eval.scoring.option_readers import by_letter, lmms_eval_letter
from pivot_jax.eval.scoring.scorers import Gold, Scorer, Verdict, choice, exact, letter, named, strict_letter

FOUR, FIVE = "ABCD", "ABCDE"
NO_ANSWER = "Failed to obtain answer via API"
MISSING = "nan"  # the text that lmms-eval's MMBench takes for an option that is not there
_PUNCTUATION = str.maketrans("", "", string.punctuation)

# lmms-eval's MMBench: how a word may spell a letter, in the order in which they are tried.
_SPELLINGS = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")
_MMVP = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^\s*\(?([AB])\)?\.?\s*$",
        r"^\s*\(?([AB])\)?[.\s]",
        r"answer\s+is\s+\(?([AB])\)?",
        r"option\s+\(?([AB])\)?",
        r"\(?([AB])\)?(?:\s|$)",
    )
)
_LEADING = re.compile(r"[(\s]*([A-Z])", re.IGNORECASE)
# MME-RealWorld removes these words, in this order, wherever they are.
_STATEMENTS = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option is", "The correct option is", "Best answer:", "Best option:"),
)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
LONG = 10  # words of an answer in which MME-RealWorld reads nothing but a letter


def seed_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """SEED-Bench as lmms-eval scores it: the first character, in any case."""
    return named((answer or "").strip()[:1].upper(), gold)


def ai2d_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """AI2D as lmms-eval scores it: "B." at the start, else the whole answer without case and punctuation."""
    text = answer or ""
    start = re.match(r"\s*([A-Z])\.", text)
    read = start[1] if start else text.lower().translate(_PUNCTUATION)
    return Verdict(read.lower() == parse.letter(gold.answer).lower() != "", read)


def scienceqa_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """ScienceQA as lmms-eval scores it: a bare letter in any case, or a capital and a full stop at the start."""
    text = (answer or "").strip()
    stopped = text[:1].isupper() and text[1:2] == "."
    return named(text[0] if stopped else text.upper() if len(text) == 1 else "", gold)


def mmbench_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """MMBench as lmms-eval scores it without a judge (``mmbench_en_dev_static``).

    The only letter among the words ("A" not in more than three), the only one in a spelling such as "(A)", the only
    option whose text the answer holds, else as ``extract_mcq_answer``. An option that is not there is the text "nan".
    """
    text = (answer or "").strip()
    found = _mmbench_letter(text) or _held(text, gold) or lmms_eval_letter(text, FOUR)
    return named(found, gold)


def _mmbench_letter(text: str) -> str:
    words = [] if NO_ANSWER in text else text.split()
    bare = [letter for letter in FIVE if letter in words]
    if len(bare) == 1 and not ("A" in words and len(words) > 3):
        return bare[0]
    for spelling in _SPELLINGS:
        spelled = [letter for letter in FIVE if spelling.format(letter) in words]
        if len(spelled) == 1:
            return spelled[0]
    return ""


def _held(text: str, gold: Gold) -> str:
    options = dict.fromkeys(FOUR, MISSING) | by_letter(gold.choices)
    held = [letter for letter in FOUR if options[letter].lower() in text.lower()]
    return held[0] if len(held) == 1 else ""


def abcd_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """MMStar as lmms-eval scores it: its ``extract_mcq_answer`` among A, B, C, D, however many options there are."""
    return named(lmms_eval_letter(answer, FOUR), gold)


def realworldqa_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """RealWorldQA as lmms-eval scores it: as MMStar where the gold is a letter A to D, else equal in lower case."""
    if gold.answer.strip().upper() in tuple(FOUR):
        return abcd_lmms_eval(answer, gold)
    text = (answer or "").lower().strip().rstrip(".")
    return Verdict(text == gold.answer.strip().lower() != "", text)


def mmvp_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """MMVP as lmms-eval scores it: the first of five patterns that finds A or B, in any case; else the first letter."""
    text = (answer or "").strip()
    matches = (match for pattern in _MMVP if (match := pattern.search(text)))
    match = next(matches, None)
    found = match[1] if match else text[:1] if text[:1].upper() in ("A", "B") else ""
    return named(found.upper(), gold)


def cv_bench_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """CV-Bench as lmms-eval scores it: the first letter of the text, of any word ("The answer is B" is read as T)."""
    match = _LEADING.match((answer or "").strip())
    return named(match[1].upper() if match else "", gold)


def blink_lmms_eval(answer: str, gold: Gold) -> Verdict:
    """BLINK as lmms-eval scores it: a short first line, the last "answer is B", the last "(B)", a leading letter."""
    text, letters = (answer or "").strip(), parse.LETTERS[: len(gold.choices)] or parse.LETTERS
    first = text.split("\n", 1)[0].strip()
    if len(first) <= 4 and (bare := re.match(rf"\(?([{letters}])\)?[.\s:,)]*$", first, re.IGNORECASE)):
        return named(bare[1].upper(), gold)
    stated = re.findall(rf"answers?(?:\s+is)?\s*[:-]?\s*\(?([{letters}])\)?(?![A-Za-z])", text, re.IGNORECASE)
    if found := stated or re.findall(rf"\(([{letters}])\)", text):
        return named(found[-1].upper(), gold)
    leading = re.match(rf"[(\s]*([{letters}])", text, re.IGNORECASE)
    return named(leading[1].upper() if leading else "", gold)


def mme_realworld(answer: str, gold: Gold) -> Verdict:
    """MME-RealWorld's authors (Zhang et al. 2024), lmms-eval: the first capital A to E.

    Words such as "The answer" are taken out before. Without a capital, the first letter whose "(A)" holds the whole
    answer, so an empty answer is read as A.
    """
    text = (answer or "").strip()
    for statement in _STATEMENTS:
        text = text.replace(statement, "")
    match = re.search(f"[{FIVE}]", text)
    if match is None and len(text.split()) <= LONG:
        return named(next((letter for letter in FIVE if text.lower() in f"({letter.lower()})"), ""), gold)
    return named(match[0] if match else "", gold)


def mme_realworld_vlmevalkit(answer: str, gold: Gold) -> Verdict:
    """MME-RealWorld as VLMEvalKit scores it: as its authors, on capitals between ``<answer>`` tags, if any."""
    tagged = _TAGGED.search(answer or "")
    return mme_realworld(tagged[1].strip().upper() if tagged else answer, gold)


def ai2d_cambrian(answer: str, gold: Gold) -> Verdict:
    """AI2D as Cambrian-1 scores it: the first character is the letter, or the index of the option from 0."""
    read = parse.letter(answer)
    index = FOUR.find(read) if read else -1
    return Verdict((str(index) if index >= 0 else read) == str(parse.LETTERS.find(parse.letter(gold.answer))), read)


def omni_cambrian(answer: str, gold: Gold) -> Verdict:
    """CV-Bench 3D as Cambrian-1 scores it: the first character is the letter, or is the option's whole text."""
    read, correct = parse.letter(answer), parse.letter(gold.answer)
    return Verdict(read != "" and (read == correct or read.lower() == choice(gold, correct)), read)


def mmstar_cambrian(answer: str, gold: Gold) -> Verdict:
    """MMStar as Cambrian-1 scores it: the first word without ".:," after it is the letter; "(A)" is none."""
    return named("".join((answer or "").upper().split()[:1]).rstrip(".:,"), gold)


def realworldqa_cambrian(answer: str, gold: Gold) -> Verdict:
    """RealWorldQA as Cambrian-1 scores it: the first word, without full stops at the end of the text, is the answer."""
    read = "".join(parse.after_cambrian_marker(answer).rstrip(".").split()[:1])
    return Verdict(read == gold.answer.lower() != "", read)


def blink_cambrian(answer: str, gold: Gold) -> Verdict:
    """BLINK as Cambrian-1 scores it: the first word before a full stop, without brackets, is the letter."""
    first = (answer or "").split(".")[0].upper().strip().split(" ")[0]
    return named(first.lstrip("(").rstrip(")"), gold)


def same_text_llava(answer: str, gold: Gold) -> Verdict:
    """SEED-Bench as LLaVA scores it: the answer is the letter and nothing else."""
    return Verdict((answer or "") == gold.answer != "", answer or "")


def letter_or_exact(answer: str, gold: Gold) -> Verdict:
    """Our own, for a benchmark with and without options: ``strict_letter`` where there are options, else ``exact``."""
    return strict_letter(answer, gold) if gold.choices else exact(answer, gold)


def cv_bench_cambrian(answer: str, gold: Gold) -> Verdict:
    """CV-Bench as Cambrian-1 scores it: the first character, or in the questions of type 3D as ``omni_cambrian``."""
    return omni_cambrian(answer, gold) if gold.fields.get("type") == "3D" else letter(answer, gold)


SCORERS: dict[str, Scorer] = {
    "letter_or_exact": letter_or_exact,
    "cv_bench_cambrian": cv_bench_cambrian,
    "seed_lmms_eval": seed_lmms_eval,
    "ai2d_lmms_eval": ai2d_lmms_eval,
    "scienceqa_lmms_eval": scienceqa_lmms_eval,
    "mmbench_lmms_eval": mmbench_lmms_eval,
    "abcd_lmms_eval": abcd_lmms_eval,
    "realworldqa_lmms_eval": realworldqa_lmms_eval,
    "mmvp_lmms_eval": mmvp_lmms_eval,
    "cv_bench_lmms_eval": cv_bench_lmms_eval,
    "blink_lmms_eval": blink_lmms_eval,
    "mme_realworld": mme_realworld,
    "mme_realworld_vlmevalkit": mme_realworld_vlmevalkit,
    "ai2d_cambrian": ai2d_cambrian,
    "omni_cambrian": omni_cambrian,
    "mmstar_cambrian": mmstar_cambrian,
    "realworldqa_cambrian": realworldqa_cambrian,
    "blink_cambrian": blink_cambrian,
    "same_text_llava": same_text_llava,
}
