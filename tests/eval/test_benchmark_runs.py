"""Running benchmarks into predictions files, and resuming after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval import predictions
from pivot_jax.eval.questions import RunOptions
from pivot_jax.eval.run import evaluate, run_benchmark
from pivot_jax.eval.score import score_file
from tests.tiny import scripted


def test_a_killed_run_resumes_and_keeps_its_answers(toy, tmp_path):
    file = tmp_path / "deep" / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_benchmark("mmvp", ".", scripted.Scripted(lambda e: "A", fail_after=4), file, RunOptions(chunk=2))
    assert len(predictions.read(file)) == 4
    with file.open("a") as out:
        out.write('{"question_id": "5", "answ')  # the kill hit a write
    again = scripted.Scripted(lambda e: "B")
    run_benchmark("mmvp", ".", again, file, RunOptions(chunk=2))
    assert again.asked == ["5", "6"]
    rows = predictions.read(file)
    assert [row["answer"] for row in rows] == ["A"] * 4 + ["B"] * 2
    third = scripted.Scripted(lambda e: "C")
    run_benchmark("mmvp", ".", third, file)
    assert third.asked == []


def test_answers_of_another_evaluation_are_rejected(toy, tmp_path):
    file = tmp_path / "p.jsonl"
    run_benchmark("mmvp", ".", scripted.Scripted(lambda e: "A"), file, RunOptions(model_id="sft", limit=2))
    with pytest.raises(UserError, match="answers of model 'sft', not 'dpo'"):
        run_benchmark("mmvp", ".", scripted.Scripted(lambda e: "A"), file, RunOptions(model_id="dpo"))
    rows = predictions.read(file)
    rows[0]["prompt"] = "another"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="question '1' was asked with another prompt"):
        run_benchmark("mmvp", ".", scripted.Scripted(lambda e: "A"), file, RunOptions(model_id="sft"))


def test_answers_under_other_settings_are_asked_again_and_kept(toy, tmp_path, caplog):
    """Each row holds its settings. Other settings ask again; the old settings find the old answers."""
    caplog.set_level("INFO", logger="pivot_jax")
    file, aside = tmp_path / "p.jsonl", tmp_path / "p.others.jsonl"

    def ask(text, limit=0, max_new_tokens=0, **settings):
        model = scripted.Scripted(lambda e: text, **settings)
        run_benchmark("mmvp", ".", model, file, RunOptions(limit=limit, max_new_tokens=max_new_tokens))
        return model.asked, [row["answer"] for row in predictions.read(file)]

    assert ask("A", temperature=0.0) == ([*"123456"], ["A"] * 6)
    assert ask("B", limit=2, temperature=1.0, seed=3) == ([*"12"], ["B"] * 2)
    assert "6 answers made under other settings (temperature 0.0 → 1.0, seed (none) → 3)" in caplog.text
    assert ask("C", limit=2, temperature=1.0, seed=3) == ([], ["B"] * 2)
    assert ask("D", limit=2, temperature=1.0, seed=4) == ([*"12"], ["D"] * 2)
    assert ask("E", limit=2, max_new_tokens=5, temperature=0.0) == ([*"12"], ["E"] * 2)
    assert "max_new_tokens 16 → 5" in caplog.text
    assert ask("F", temperature=1.0, seed=3) == ([*"3456"], ["B"] * 2 + ["F"] * 4)
    assert ask("G", limit=2, temperature=0.0) == ([], ["A"] * 6)
    assert len(predictions.read(aside)) == 6 + 6 + 2 + 2
    rows = predictions.read(file)  # a file from before settings were written down
    file.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "settings"}) + "\n" for row in rows))
    assert ask("H", temperature=0.5) == ([*"123456"], ["H"] * 6)
    assert caplog.text.count("\n") == 6


def test_a_limit_holds_for_the_score(toy, tmp_path):
    right = scripted.Scripted(lambda e: "AB"[(int(e.id) - 1) % 2] if int(e.id) < 3 else "")
    file = tmp_path / "p.jsonl"
    assert evaluate("mmvp", ".", right, file).value.value == pytest.approx(1 / 3)
    found = evaluate("mmvp", ".", right, file, RunOptions(limit=2))
    assert found.ids == ("1", "2") and found.value.value == 1.0
    assert len(predictions.read(file)) == 6


def test_missing_rankings_are_computed_without_asking_again(toy, tmp_path):
    file = tmp_path / "p.jsonl"
    run_benchmark("mmvp", ".", scripted.Scripted(lambda e: "A"), file, RunOptions(limit=4))
    again = scripted.Scripted(lambda e: "A", option=1)
    found = evaluate("mmvp", ".", again, file, RunOptions(ranked="mean", chunk=3))
    assert again.asked == [*"56"] and again.ranked == [*"123456"]
    assert found.secondary["ranked"].n == 3 and [row["ranked"] for row in predictions.read(file)] == ["B"] * 6
    third = scripted.Scripted(lambda e: "A")
    assert "ranked" in evaluate("mmvp", ".", third, file, RunOptions(ranked="mean")).secondary
    assert third.asked == third.ranked == []


def test_odd_answers_survive_the_file(toy, tmp_path):
    odd = "a\u2028b\x85c\n\ud83d \x00 é"
    file = run_benchmark("mmvp", ".", scripted.Scripted(lambda e: odd), tmp_path / "p.jsonl")
    assert [row["answer"] for row in predictions.read(file)] == [odd] * 6
    again = scripted.Scripted(lambda e: "A")
    run_benchmark("mmvp", ".", again, file)
    assert again.asked == [] and score_file(file).value.value == 0


def test_a_full_disk_is_named_with_its_file():
    with pytest.raises(UserError, match=r"/dev/full could not be written \(No space left on device\); free disk space"):
        predictions.append(Path("/dev/full"), [{"id": "1", "answer": "yes"}])
