"""Scores of predictions files: metric, units, secondary numbers, and the record on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pivot_jax.cli import main as cli
from pivot_jax.cli.evaluation import show_score
from pivot_jax.errors import UserError
from pivot_jax.eval import predictions
from pivot_jax.eval.questions import RunOptions
from pivot_jax.eval.run import evaluate, run_benchmark
from pivot_jax.eval.score import Rules, score_file, score_rows
from tests.tiny import scripted


def test_pair_accuracy_and_its_units(toy, tmp_path):
    right = {"1": "A", "2": "(B)", "3": "A", "4": "A. Open", "5": "", "6": "closed"}
    found = evaluate("mmvp", ".", scripted.Scripted(lambda e: right[e.id]), tmp_path / "p.jsonl")
    assert found.metric == "pair_accuracy" and found.value.value == pytest.approx(1 / 3) and found.value.n == 3
    assert found.secondary["question_accuracy"].value == pytest.approx(4 / 6)
    assert found.compliance == pytest.approx(3 / 6)  # "A. Open", "" and "closed" are not bare letters
    assert found.per_unit().tolist() == [1.0, 0.0, 0.0]
    assert found.scores.tolist() == [1, 1, 1, 0, 0, 1] and found.ids == tuple("123456")


def test_ranked_options_are_scored_beside_the_text(toy, tmp_path):
    chatty = scripted.Scripted(lambda e: "Well, that is hard to say.", option=0)
    found = evaluate("mmvp", ".", chatty, tmp_path / "p.jsonl", RunOptions(ranked="mean"))
    assert found.value.value == 0 and found.compliance == 0
    assert found.secondary["ranked"].value == 0  # always A: one of each pair
    assert score_file(tmp_path / "p.jsonl").secondary["ranked"] == found.secondary["ranked"]


def test_score_needs_one_benchmark(tmp_path):
    file = tmp_path / "p.jsonl"
    rows = [{"question_id": str(i), "answer": "A", "gt_answer": "A", "benchmark": n} for i, n in enumerate("ab")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="it holds a, b"):
        score_file(file)
    file.write_text('{"question_id": 1, "gt_answer": "A"}\n')
    with pytest.raises(UserError, match="line 1: field 'answer' is missing"):
        score_file(file, "mmvp")
    file.write_text("not json\n{}\n")
    with pytest.raises(UserError, match="line 1: no JSON object"):
        score_file(file, "mmvp")
    with pytest.raises(UserError, match="does not exist"):
        score_file(tmp_path / "none.jsonl")


def predictions_file(tmp_path, *changes: dict) -> Path:
    rows = [
        {"question_id": str(i), "answer": "A", "gt_answer": "A", "benchmark": "mmvp", "unit": i // 2} | change
        for i, change in enumerate(changes)
    ]
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question_id": "0"}, "question '0': answered twice; keep one"),
        ({"question_id": 0}, "question '0': answered twice"),
        ({"answer": None}, "question '1': 'answer' is null; ask it again"),
        ({"gt_answer": None}, "question '1': 'gt_answer' is None"),
        ({"gt_answer": []}, r"question '1': 'gt_answer' is \[\]"),
        ({"unit": None}, r"question '1': field 'unit' is missing; .*\(pairs, "),
        ({"benchmark": "scienceqa"}, "it holds mmvp, scienceqa"),
    ],
)
def test_rows_that_would_spoil_a_score(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        score_file(predictions_file(tmp_path, {}, change))
    assert score_file(predictions_file(tmp_path, {}, {"answer": ""})).scores.tolist() == [1, 0]


def test_answers_to_another_benchmark(tmp_path, toy):
    file = predictions_file(tmp_path, {"benchmark": "scienceqa"}, {"benchmark": "scienceqa"})
    with pytest.raises(UserError, match="its answers are to scienceqa, not to mmvp"):
        score_file(file, "mmvp")
    before = file.read_text()
    with pytest.raises(UserError, match="holds answers to scienceqa, not to mmvp; name another file"):
        run_benchmark("mmvp", ".", scripted.Scripted(lambda e: "A"), file)
    assert file.read_text() == before


def test_a_part_of_the_questions_is_said(tmp_path, toy, capsys):
    """Of a file of ours, the benchmark's own number; of another program's, the published one, where there is one."""
    found = evaluate("mmvp", ".", scripted.Scripted(lambda e: "A"), tmp_path / "a.jsonl", RunOptions(limit=2))
    assert (found.total, len(found.ids)) == (6, 2)
    show_score(score_file(tmp_path / "a.jsonl"), tmp_path / "a.jsonl")
    assert "mmvp: 2 of 6 questions" in capsys.readouterr().out
    record = json.loads((tmp_path / "a.score.json").read_text())
    assert (record["questions"], record["of"]) == (2, 6)
    file = predictions_file(tmp_path, {})
    show_score(score_file(file), file)
    assert "mmvp: 1 of 300 questions" in capsys.readouterr().out
    whole = evaluate("mmvp", ".", scripted.Scripted(lambda e: "A"), tmp_path / "a.jsonl")
    show_score(whole, tmp_path / "a.jsonl")
    assert "mmvp: 6 questions" in capsys.readouterr().out


def test_record_of_a_score(tmp_path):
    """Every interval by its name, the two shares of answers, and nothing else beside the predictions."""
    rows = [
        {"question_id": str(i), "answer": "red", "gt_answer": gold, "category": kind, "finished": i != 2}
        for i, (gold, kind) in enumerate([("red", "colour"), ("blue", "colour"), ("red", "count"), ("red", "count")])
    ]
    found = score_rows("scenes", rows)
    assert found.truncated == 0.25 and found.compliance == 1.0 and found.value.value == 0.75
    path = found.write(tmp_path / "p.jsonl")
    record = json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path] and path.name == "p.score.json"
    assert (record.pop("benchmark"), record.pop("questions"), record.pop("of")) == ("scenes", 4, None)
    assert [record.pop(name) for name in ("compliance", "truncated", "unread", "judged", "guessed")] == [
        1.0, 0.25, 0.0, 0.0, 0.0,
    ]  # fmt: skip
    assert [record.pop(name) for name in ("toolkit", "scorer", "percent")] == ["ours", "exact", True]
    assert {name: one["value"] for name, one in record.items()} == {"accuracy": 0.75, "colour": 0.5, "count": 1.0}
    assert record["accuracy"] == vars(found.value) and record["count"]["method"] == "wilson"


def test_scores_are_seeded(toy, tmp_path):
    answer = scripted.Scripted(lambda e: "A" if int(e.id) % 3 else "B")
    file = run_benchmark("mmvp", ".", answer, tmp_path / "p.jsonl")
    first, again = score_file(file, seed=1), score_file(file, seed=1)
    assert first.value == again.value and np.array_equal(first.scores, again.scores)


@pytest.mark.parametrize("text", ['[\n {"id": "1"}\n]', '[{"id": "1"}]', '{"id": "1"}\n{"id": "2"}\n', "notes\n"])
def test_a_file_that_holds_no_answers_is_left_as_it_is(tmp_path, text):
    """Such as the questions, named as --out by mistake; the last line of an own file may be incomplete."""
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(UserError, match="not a file of answers, so it was left as it is"):
        predictions.resume(path, {}, "model", {})
    assert path.read_text() == text


def test_answers_of_another_toolkit(tmp_path, toy, capsys):
    """LLaVA's file has no correct answers: they come from the benchmark's own questions."""
    file = tmp_path / "llava.jsonl"
    rows = [{"question_id": str(i + 1), "prompt": "?", "text": "A", "answer_id": "x", "metadata": {}} for i in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="a file of llava without correct answers; name the benchmark's files"):
        score_file(file, "mmvp")
    found = score_file(file, "mmvp", Rules("cambrian"), data=".")
    assert found.scores.tolist() == [1, 0, 1, 0] and found.metric == "pair_accuracy" and found.toolkit == "cambrian"
    arguments = ["score", "--predictions", str(file), "--benchmark", "mmvp", "--data", ".", "--toolkit", "ours"]
    assert cli.main(arguments) == 0 and "question_accuracy" in capsys.readouterr().out
    rows[0]["question_id"] = "77"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="question '77' is not among the 6 of the benchmark"):
        score_file(file, "mmvp", Rules("cambrian"), data=".")
