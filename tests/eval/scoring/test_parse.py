"""Answers read out of texts: letters, EvalAI's normaliser, compliance with the requested format."""

from __future__ import annotations

import pytest

from pivot_jax.eval.scoring import parse

CHOICES = ("Open", "Closed")


@pytest.mark.parametrize(
    ("text", "cambrian", "strict"),
    [
        ("B", "B", "B"),
        ("b", "B", "B"),
        ("(B)", "B", "B"),
        ("B.", "B", "B"),
        ("Answer: (B).", "B", "B"),
        ("The answer is B", "B", "B"),
        ("Answer is: b", ":", "B"),  # Cambrian splits at "answer is" first
        ("B. Closed", "B", "B"),
        ("(B) Closed", "B", "B"),
        ("I think the correct option is B because it is shut", "I", "B"),
        ("Answer: A. No, wait. Answer: B", "B", "B"),
        ("Closed", "C", "B"),
        ("closed.", "C", "B"),
        ("Answer: B. dog", "B", "B"),
        ("Answer: (B) dog", "B", "B"),
        ("Option B", "O", "B"),
        ("Choice B", "C", "B"),
        ("option B: sky", "O", "B"),
        ("OPTION B", "O", "B"),
        ("Final answer: B. dog", "B", "B"),
        ("**B**", "*", "B"),
        ("**B.** Closed", "*", "B"),
        ("b. dog", "B", "B"),
        ("a dog", "A", ""),
        ("To answer a question, look", "T", ""),
        ("Apples are red", "A", ""),
        ("E", "E", ""),
        ("", "", ""),
        ("   \n", "", ""),
        ("().", "", ""),
        ("**", "*", ""),
    ],
)
def test_letter_extraction(text, cambrian, strict):
    assert parse.letter(text) == cambrian
    assert parse.strict_letter(text, CHOICES) == strict


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The cats.", "cats"),
        ("two", "2"),
        ("dont", "don't"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("a red-white flag!", "red white flag"),
        ("yes\n", "yes"),
        ("bob's", "bob 's"),
    ],
)
def test_evalai_normaliser(text, normal):
    assert parse.evalai(text) == normal


def test_compliance_separates_format_from_correctness():
    assert parse.format_compliance("B", "letter", CHOICES) and parse.format_compliance("(b).", "letter", CHOICES)
    assert not parse.format_compliance("The answer is B", "letter", CHOICES)
    assert not parse.format_compliance("E", "letter", CHOICES)
    assert parse.format_compliance("1,234.5", "number") and not parse.format_compliance("about 3", "number")
    assert parse.format_compliance("Yes.", "yes_no") and not parse.format_compliance("Yes, it is", "yes_no")
    assert parse.format_compliance("red", "short") and not parse.format_compliance("", "short")
    with pytest.raises(ValueError, match="there are letter, number"):
        parse.format_compliance("B", "letters")
