"""Answers in a model's text: letters, numbers, normalised strings, and compliance with the requested format.

A multiple-choice answer has two readings. ``letter`` is Cambrian's, which the paper's numbers come from: it takes the
first character, so "Apples are red" is read as A. ``strict_letter`` takes a letter only where the answer names one. The
share of answers that need no guessing is the ``format_compliance``; a drop of it is format drift, not blindness.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import NamedTuple

LETTERS = string.ascii_uppercase
_MARKERS = ("answer is:", "answer is", "answer:")
_CAMBRIAN_MARKERS = ("answer is", "answer is:", "answer:")  # in this order "answer is: B" leaves ": B"
_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)  # "\{" is no brace
_BARE_LETTER = re.compile(r"\s*\(?([A-Za-z])[).:]*\s*")
_LEADING_LETTER = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Z])[.):,]|([a-z])[.):])(?:\s|$)")
# The letter is a capital: "answer a question" names none.
_NAMED_LETTER = re.compile(r"(?i:answer|option|choice)\s*(?i:is|:)*\s*\(?([A-Z])\)?(?![A-Za-z])")
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?%?")

# EvalAI's answer normaliser (VQA v2, TextVQA): contractions, articles, number words, punctuation.
_ARTICLES = {"a", "an", "the"}
_NUMBER_WORDS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_PUNCTUATION = list(';/[]"{}()=+\\_-><@`,?!')
_PERIOD = re.compile(r"\.(?!\d)")
_PERIOD_VLMEVALKIT = re.compile(r"(?<!\d)\.(?!\d)")
# Both toolkits pass re.UNICODE where ``re.sub`` takes the number of replacements, so no more full stops are removed.
_PERIODS = int(re.UNICODE)
_COMMA_IN_NUMBER = re.compile(r"(\d),(\d)")
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll
you'd you'd've you'll you're you've
"""
# A contraction without one of its apostrophes gets it back; EvalAI's table has one the wrong way round.
_CONTRACTIONS = {
    full[:at] + full[at + 1 :]: full for full in _CONTRACTED.split() for at, mark in enumerate(full) if mark == "'"
} | {"somebody'd": "somebodyd"}


class Box(NamedTuple):
    r"""A ``\boxed{}`` in a text: its content, and where it starts and ends."""

    content: str
    start: int
    end: int


def boxed(text: str) -> list[Box]:
    r"""Every closed ``\boxed{}`` with its braces balanced, in order; of nested ones the innermost. In linear time."""
    found: list[Box] = []
    opened: list[int] = []  # of each open brace, the start of its box, or -1
    for match in _BRACE.finditer(text or ""):
        if match[0] == "{":
            opened.append(-1)
        elif match[0] == "}":
            start = opened.pop() if opened else -1
            if start >= 0 and not (found and found[-1].start > start):
                found.append(Box(text[text.index("{", start) + 1 : match.start()], start, match.end()))
        elif match[0].endswith("{") and len(match[0]) > 2:
            opened.append(match.start())
    return found


def after_marker(text: str) -> str:
    """The text after the last "answer is" / "answer:", lower case."""
    return _after(text, _MARKERS)


def after_cambrian_marker(text: str) -> str:
    """As :func:`after_marker`, by Cambrian's order of markers, which leaves the colon of "answer is: B"."""
    return _after(text, _CAMBRIAN_MARKERS)


def _after(text: str, markers: Sequence[str]) -> str:
    text = (text or "").lower().strip()
    for marker in markers:
        text = text.split(marker)[-1]
    return text.strip()


def cambrian_text(text: str) -> str:
    """Answer text as Cambrian's scorers compare it: without the marker, trailing ``.:,`` and brackets around it."""
    return after_cambrian_marker(text).rstrip(".:,").lstrip("(").rstrip(")")


def letter(text: str) -> str:
    """Cambrian's letter: the first character of :func:`cambrian_text`, upper case; "" for an empty answer."""
    return cambrian_text(text)[:1].upper()


def strict_letter(text: str, choices: int | Sequence[str]) -> str:
    """The option letter that the answer names, or "" where it names none.

    In this order: a bare letter, a leading letter ("B. Closed", "(B) Closed", "b. closed"), a letter after "answer",
    "option" or "choice" in any case (the last one counts), the whole text equal to one option's text. Markdown's bold
    (``**B**``) has no part in it.

    Args:
      choices: the options' texts, or their number.
    """
    text = (text or "").replace("**", "").strip()
    options = [] if isinstance(choices, int) else [normalise(choice) for choice in choices]
    allowed = LETTERS[: choices if isinstance(choices, int) else len(options)]
    for candidate in (text, after_marker(text)):
        if (bare := _BARE_LETTER.fullmatch(candidate)) and bare[1].upper() in allowed:
            return bare[1].upper()
    leading = _LEADING_LETTER.match(text)
    if leading and (found := (leading[1] or leading[2] or leading[3]).upper()) in allowed:
        return found
    named = [found for found in _NAMED_LETTER.findall(text) if found in allowed]
    if named:
        return named[-1]
    body = normalise(after_marker(text))
    return LETTERS[options.index(body)] if body and options.count(body) == 1 else ""


def normalise(text: str) -> str:
    """Lower case without punctuation (Cambrian's ScienceQA comparison)."""
    return (text or "").translate(str.maketrans("", "", string.punctuation)).lower().strip()


def plain(text: str) -> str:
    """Lower case, surrounding blanks and trailing full stops removed (MME, GQA)."""
    return (text or "").lower().strip().rstrip(".")


def number(text: str) -> float | None:
    """The text as a number ("1,234" and "12%" too), or None where it is not one number."""
    cleaned = (text or "").strip().rstrip(".").replace(",", "")
    percent = cleaned.endswith("%")
    try:
        value = float(cleaned.rstrip("%"))
    except ValueError:
        return None
    return value / 100 if percent else value


def evalai(text: str) -> str:
    """EvalAI's VQA normalisation: punctuation, number words, articles and contractions."""
    text = (text or "").lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return _plain_words(_without_punctuation(text, _PERIOD))


def vqa_vlmevalkit(text: str) -> str:
    """VLMEvalKit's VQA normalisation: :func:`evalai`, but a full stop after a digit and all of "'s" are kept."""
    return _plain_words(words_vlmevalkit((text or "").replace("\n", " ").replace("\t", " ").strip()))


def words_vlmevalkit(text: str) -> str:
    """The text without punctuation, as VLMEvalKit compares words."""
    return _without_punctuation(text, _PERIOD_VLMEVALKIT)


def _without_punctuation(text: str, period: re.Pattern[str]) -> str:
    """Marks become blanks; nothing where any stands beside a blank, and in a text with a number such as 1,234."""
    kept = text
    for mark in _PUNCTUATION:
        bordered = mark + " " in text or " " + mark in text
        kept = kept.replace(mark, "" if bordered or _COMMA_IN_NUMBER.search(text) else " ")
    return period.sub("", kept, count=_PERIODS)


def _plain_words(text: str) -> str:
    """Lower case, number words as digits, without articles, contractions with their apostrophes."""
    words = [_NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def format_compliance(text: str, answer_format: str, choices: int | Sequence[str] = ()) -> bool:
    """Whether the answer has the requested format, right or wrong.

    Args:
      answer_format: "letter" (nothing but an option's letter), "number", "yes_no", or "short" (one line of at most 5
        words).
    """
    text = (text or "").strip()
    if not text:
        return False
    if answer_format == "letter":
        count = choices if isinstance(choices, int) else len(choices)
        bare = _BARE_LETTER.fullmatch(text)
        return bare is not None and bare[1].upper() in LETTERS[: count or 26]
    if answer_format == "number":
        return _NUMBER.fullmatch(text.rstrip(".")) is not None
    if answer_format == "yes_no":
        return plain(text) in ("yes", "no")
    if answer_format == "short":
        return "\n" not in text and len(text.split()) <= 5
    raise ValueError(f"answer format '{answer_format}' is unknown; there are letter, number, yes_no, short")
