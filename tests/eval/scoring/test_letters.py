"""Option letters as single benchmarks read them: what tells the rules apart. Verdicts of the toolkits are compared in
``tests/eval/benchmarks/families``."""

from __future__ import annotations

import pytest

from pivot_jax.eval.scoring.scorers import Gold
from pivot_jax.eval.scoring.table import SCORERS

GOLD = Gold(("B",), ("the dog", "the cat", "2", "nan"))
ANSWERS = ("B", "b", "B.", "(B)", "B. the cat", "The answer is B", "The answer is: B", "the cat", "A dog or B", "")
READ = {
    "seed_lmms_eval": ["B", "B", "B", "(", "B", "T", "T", "T", "A", ""],
    "ai2d_lmms_eval": ["b", "b", "B", "b", "B", "the answer is b", "the answer is b", "the cat", "a dog or b", ""],
    "scienceqa_lmms_eval": ["B", "B", "B", "", "B", "", "", "", "", ""],
    "mmbench_lmms_eval": ["B", "", "B", "B", "B", "B", "B", "B", "A", ""],
    "abcd_lmms_eval": ["B", "", "B", "B", "B", "B", "B", "", "A", ""],
    "mmvp_lmms_eval": ["B", "B", "B", "B", "B", "B", "B", "", "A", ""],
    "cv_bench_lmms_eval": ["B", "B", "B", "B", "B", "T", "T", "T", "A", ""],
    "blink_lmms_eval": ["B", "B", "B", "B", "B", "B", "B", "", "A", ""],
    "mme_realworld": ["B", "B", "B", "B", "B", "B", "B", "", "A", "A"],
    "mmstar_cambrian": ["B", "B", "B", "(B)", "B", "THE", "THE", "THE", "A", ""],
    "blink_cambrian": ["B", "B", "B", "B", "B", "THE", "THE", "THE", "A", ""],
    "omni_cambrian": ["B", "B", "B", "B", "B", "B", ":", "T", "A", ""],
    "realworldqa_cambrian": ["b", "b", "b", "(b)", "b.", "b", ":", "the", "a", ""],
    "vlmevalkit_option": ["B", "", "B", "B", "B", "B", "B", "B", "", ""],
    "strict_letter": ["B", "B", "B", "B", "B", "B", "B", "B", "", ""],
}


@pytest.mark.parametrize("name", READ)
def test_what_a_rule_reads(name: str) -> None:
    assert [SCORERS[name](answer, GOLD).read for answer in ANSWERS] == READ[name]


def test_an_index_is_an_answer_to_ai2d_in_cambrian() -> None:
    assert [SCORERS["ai2d_cambrian"](answer, GOLD) for answer in ("1", "B", "(b)", "0", "2", "")] == [1, 1, 1, 0, 0, 0]


def test_a_tag_holds_the_answer_in_vlmevalkit() -> None:
    answer = "A or C. <answer>b</answer>"
    assert SCORERS["mme_realworld_vlmevalkit"](answer, GOLD) == 1 and SCORERS["mme_realworld"](answer, GOLD) == 0


def test_an_option_that_is_not_there_is_the_text_nan_in_lmms_eval() -> None:
    two = Gold(("A",), ("cat", "dog"))
    assert SCORERS["mmbench_lmms_eval"]("a banana", two).read == ""  # C and D both hold "nan"
    assert SCORERS["mmbench_lmms_eval"]("a banana", Gold(("A",), ("cat", "dog", "cow"))).read == "D"


def test_llava_takes_any_character_after_its_sentence() -> None:
    scores = [
        SCORERS["scienceqa_llava"](answer, GOLD)
        for answer in (
            "The answer is B.",
            "The answer is B,",
            "The answer is B",
            "The answer is B. The answer is B.",
            "F",
        )
    ]
    assert scores == [1, 1, 0, 0, 0]
