"""Reflection words, the paper's ratios, repetition and changes of the answer, against MAYE's released function."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivot_jax.rl.scheme import reflection
from pivot_jax.rl.scheme.reflection import CORRECTED, OTHER, SPOILED, UNCHANGED, UNKNOWN, WORDS, change, words


@pytest.fixture(scope="module")
def golden(shared_data):
    cases = json.loads((shared_data.parent / "reference" / "maye_golden.json").read_text())["cases"]
    return [case for case in cases if case["fn"] == "log_reflection_analysis"]


def test_counts_and_ratios_are_those_of_the_released_function(golden):
    """Counts over all ranks, ratios as means over ranks and pooled (dossier §5, 26 and 27)."""
    assert len(golden) == 5
    for case in golden:
        ranks = case["inputs"]["ranks"]
        texts = [text for rank in ranks for text in rank["texts"]]
        correct = np.asarray([right for rank in ranks for right in rank["is_correct"]])
        of_rank = np.repeat(np.arange(len(ranks)), [len(rank["texts"]) for rank in ranks])
        counts = np.asarray([words(text).substrings for text in texts])
        expected = case["outputs"]["maye_mean_over_ranks"]
        found = dict(zip(WORDS, counts.sum(axis=0).tolist(), strict=True))
        assert found == {name: expected[f"reflection_words/{name}"] for name in WORDS}, case["id"]
        reflects = counts.any(axis=1)
        for name, value in asdict(reflection.ratios_over_ranks(reflects, correct, of_rank)).items():
            assert value == pytest.approx(expected[f"reflection_analysis/{name}"], abs=1e-7), (case["id"], name)
        for name, value in asdict(reflection.ratios(reflects, correct)).items():
            pooled = case["outputs"]["pooled_table2"]
            assert value == pytest.approx(pooled[f"reflection_analysis/{name}"], abs=1e-7), (case["id"], name)


def test_whole_words_leave_out_the_traps():
    """What the paper counts by mistake: "await", "yetis", "verifying"; and what it finds twice."""
    for text in ("We await the result.", "yetis waited", "Verifying it", "pre-verify", "verify-all"):
        found = words(text)
        assert any(found.substrings) and not any(found.whole) and np.isnan(found.position), text
    found = words("The answer is 5. Wait, let me Re-Check and verify; VERIFY.")
    assert {word: count for word, count in zip(WORDS, found.whole, strict=True) if count} == {
        "re-check": 1, "verify": 2, "wait": 1,
    }  # fmt: skip
    assert found.position == pytest.approx(17 / 58)
    assert not any(words("Verification complete; double-check done.").substrings)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_the_ratios_are_consistent(pairs):
    """N_ref / N = share correct * ratio in correct + share incorrect * ratio in incorrect (dossier §5, 28)."""
    reflects, correct = np.asarray(pairs).T
    found, share = reflection.ratios(reflects, correct), correct.mean()
    inside = share * found.reflection_ratio_in_correct_answers
    outside = (1 - share) * found.reflection_ratio_in_incorrect_answers
    assert found.reflection_ratio == pytest.approx(inside + outside)


def test_repetition_of_a_loop():
    assert reflection.repetition("so we verify it and " * 30) > 0.9
    assert reflection.repetition("each of these words is another one here") == 0
    assert reflection.repetition("three words only") == 0


@pytest.mark.parametrize(
    ("text", "correct", "expected"),
    [
        ("So x = 12. Wait, it is 15. \\boxed{15}", True, CORRECTED),
        ("So x = 15. Wait, it is 12. \\boxed{12}", False, SPOILED),
        ("So x = 15. Let me verify: yes. \\boxed{15}", True, UNCHANGED),
        ("So x = 12. Let me verify: yes. \\boxed{12}", False, UNCHANGED),
        ("So x = 11. Wait, it is 12. \\boxed{12}", False, OTHER),
        ("\\boxed{1,200}. Wait. \\boxed{15}", True, CORRECTED),
        ("Wait, what is asked? \\boxed{15}", True, UNKNOWN),
    ],
)
def test_what_a_reflection_does_to_the_answer(text, correct, expected):
    assert change(text, words(text).position, correct, lambda answer: answer == "15") == expected
