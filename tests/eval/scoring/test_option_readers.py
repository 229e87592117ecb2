"""The toolkits' rules that read an option's letter: on real answers with known counts, and case by case."""

from __future__ import annotations

import gzip
import json

import pytest

from pivot_jax.eval.scoring import option_readers as readers
from pivot_jax.eval.scoring.scorers import Gold, letter

CHOICES = {"A": "the cat", "B": "a dog", "C": "neither of the two"}


def mmmu_answers(folder, model):
    """(answer, gold) of a model's answers to MMMU's multiple-choice questions."""
    with gzip.open(folder / "eval_outputs_more" / "mmmu" / f"{model}_responses.jsonl.gz", "rt") as file:
        rows = [row for row in map(json.loads, file) if row["question_type"] == "multiple-choice"]
    return [(row["response"], Gold((row["answer"],), tuple(row["index2ans"].values()), id=row["id"])) for row in rows]


@pytest.mark.parametrize(
    ("model", "lmms_eval", "vlmevalkit", "first"),
    [("qwen_vl", (273, 83), (218, 312), 15), ("llava1.5_13b", (328, 0), (326, 3), 326)],
)
def test_counts_of_real_answers(shared_data, model, lmms_eval, vlmevalkit, first):
    """Right and unread of 847; what the toolkits' own functions count on the same files."""
    answers = mmmu_answers(shared_data, model)
    for scorer, expected in ((readers.lmms_eval_option, lmms_eval), (readers.vlmevalkit_option, vlmevalkit)):
        verdicts = [scorer(answer, gold) for answer, gold in answers]
        assert (sum(verdicts), sum(one.read == "" for one in verdicts)) == expected
    assert len(answers) == 847 and sum(answer[:1] == gold.answer for answer, gold in answers) == first
    assert sum(letter(answer, gold) for answer, gold in answers) >= first  # Cambrian's looks behind "answer is" first


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", "B"),
        ("(B) a dog", "B"),
        ("It can be A or B.", ""),
        ("B as I see", "B"),
        ("B is what I see", ""),  # the first of five words is not among the last ones
        ("The correct answer is **B**. Here's why: the image shows a dog and a cat.", "B"),
        ("I see a dog", "B"),
        ("I see the cat and a dog", ""),
        ("There is a dog in this image, at least if I see it right, and it seems to be asleep", ""),
        ("I'm sorry, but without the image provided I can't.", "Z"),
        ("Z", "Z"),
        ("Failed to obtain answer via API. B", ""),
        ("", ""),
    ],
)
def test_vlmevalkit(answer, expected):
    assert readers.vlmevalkit_letter(answer, CHOICES) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("(A) or (C)?", "C"),
        ("A is wrong, so I take B", "A"),  # the letter at the start outranks that at the end
        ("So it is B", "B"),
        ("the answer is: (C), not A. at all", "A"),  # every letter behind the phrase counts, and the last one wins
        ("A. then B.", "A"),
        ("xAx", "A"),
        ("dog", ""),
        ("", ""),
    ],
)
def test_lmms_eval(answer, expected):
    assert readers.lmms_eval_letter(answer, "ABC") == expected


def test_an_option_that_is_left_out_is_none():
    assert readers.by_letter(("x", "", "y")) == {"A": "x", "C": "y"}
    assert readers.vlmevalkit_option("B", Gold(("C",), ("x", "", "y"))).read == ""
