"""MMMU and mathematics from their published rows to a score: the predictions file keeps what the scorers read."""

from __future__ import annotations

import pytest

from pivot_jax.eval import predictions
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.run import RunOptions, evaluate
from pivot_jax.eval.score import Rules, score_file
from tests.eval.benchmarks import published_rows
from tests.tiny import scripted


def right_answer(example):
    gold = example.extra["answer"]
    gold = gold if isinstance(gold, str) else gold[0]
    return f"<think>So</think> \\boxed{{{gold}}}" if "\\boxed{}" in example.messages[-1].content else gold


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("mmmu", "mmmu"),
        ("mathvista", "mathvista"),
        ("mathverse", "mathverse"),
        ("geometry3k", "geometry3k"),
        ("geometry3k-choices", "geometry3k_choices"),
    ],
)
def test_right_answers_are_right_in_our_rules(tmp_path, name, rows):
    folder = published_rows.write_tables(rows, tmp_path)
    found = evaluate(name, folder, scripted.Scripted(right_answer), tmp_path / "p.jsonl")
    assert found.value.value == 1.0 and len(found.ids) == len(published_rows.ROWS[rows])
    assert found.unread == found.guessed == 0
    for toolkit in suite.find(name).variants:
        again = score_file(tmp_path / "p.jsonl", rules=Rules(toolkit=toolkit))
        assert again.toolkit == toolkit and 0 <= again.value.value <= 1


def test_guesses_stand_beside_the_score(tmp_path):
    folder = published_rows.write_tables("mmmu", tmp_path)
    options = RunOptions(toolkit="lmms-eval")
    found = evaluate("mmmu", folder, scripted.Scripted(lambda example: "hm"), tmp_path / "p.jsonl", options)
    assert found.guessed == 4 / 6 and found.secondary["without_guesses"].value == 0
    row = predictions.read(tmp_path / "p.jsonl")[3]
    assert row["gt_answer"] == ["24/7", "3.429"] and row["fields"] == {"published_answer": "['24/7', '3.429']"}


def test_mathvista_keeps_precision_and_unit(tmp_path):
    folder = published_rows.write_tables("mathvista", tmp_path)
    answers = {"1": "It is 1.23 m/s.", "5": "\\boxed{0.851}"}
    answerer = scripted.Scripted(lambda example: answers.get(example.id, "hm"))
    found = evaluate("mathvista", folder, answerer, tmp_path / "p.jsonl")
    right = {own for own, score in zip(found.ids, found.scores, strict=True) if score}
    assert right == {"1", "5"}
    assert score_file(tmp_path / "p.jsonl", rules=Rules(toolkit="cambrian")).value.value == 0
