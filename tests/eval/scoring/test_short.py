"""What tells the toolkits' scorers of short answers apart; their verdicts are in ``benchmarks/families``."""

from __future__ import annotations

import pytest

from pivot_jax.eval.scoring.scorers import HANDWRITTEN, Gold
from pivot_jax.eval.scoring.table import SCORERS


def verdicts(names: str, answer: str, *golds: str, category: str = "") -> list[float]:
    return [float(SCORERS[name](answer, Gold(golds, category=category))) for name in names.split()]


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("Cat.", "cat", [1, 1, 1, 0]),
        (" cat", "cat", [1, 0, 0, 1]),
        ("t-shirt", "tshirt", [0, 0, 1, 0]),
        ("the cat", "cat", [0, 0, 0, 0]),
    ],
)
def test_equal_words(answer: str, gold: str, expected: list[int]) -> None:
    assert verdicts("exact exact_cambrian exact_lmms_eval exact_vlmevalkit", answer, gold) == expected


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("104", "100", [1, 1, 1, 1]),
        ("106", "100", [0, 0, 0, 0]),
        ("12%", "0.12", [1, 1, 1, 0]),
        ("12%", "12%", [1, 1, 1, 1]),
        ("12.1%", "12%", [1, 1, 1, 0]),
        ("1,000", "1000", [1, 0, 0, 0]),
        ("0.0", "0", [1, 0, 0, 1]),  # a relative distance to 0 is none
        (" yes ", "Yes", [1, 0, 1, 0]),
        ("nan", "14", [0, 0, 0, 0]),
        ("1e999", "14", [0, 0, 0, 0]),
    ],
)
def test_relaxed_numbers(answer: str, gold: str, expected: list[int]) -> None:
    assert verdicts("relaxed relaxed_lmms_eval relaxed_vlmevalkit relaxed_cambrian", answer, gold) == expected


def test_full_width_letters_but_not_in_formulas() -> None:
    assert verdicts("substring substring_lmms_eval", "it is ＲＭ　9", "rm 9") == [0, 1]
    assert verdicts("substring substring_lmms_eval", "ｘ", "x", category=HANDWRITTEN) == [0, 0]
    assert verdicts("substring substring_lmms_eval", "a x b", "x b", category=HANDWRITTEN) == [1, 1]


def test_vqa_normalisers() -> None:
    """VLMEvalKit keeps "1." and "cat's"; EvalAI takes them apart."""
    assert verdicts("vqa vqa_vlmevalkit", "1.", *["1"] * 10) == [1, 0]
    assert verdicts("vqa vqa_vlmevalkit", "cat 's", *["cat's"] * 10) == [1, 0]
    assert verdicts("vqa vqa_vlmevalkit", "Two, dogs", *["2 dogs"] * 10) == [1, 1]
    assert verdicts("vqa vqa_vlmevalkit", "couldn'tve", *["couldn't've"] * 10) == [1, 1]


def test_all_blanks_count_in_the_length() -> None:
    assert verdicts("anls anls_toolkits", "ab  ce", "ab cd") == pytest.approx([1 - 1 / 5, 1 - 1 / 6])
    assert verdicts("anls anls_toolkits", "", "") == [0, 1]  # two empty texts are equal
    assert verdicts("anls anls_toolkits", "x", *()) == [0, 0]
