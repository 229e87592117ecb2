"""Predictions under several rules, two models on the same questions, folders of predictions and their page."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pivot_jax.cli import main as cli
from pivot_jax.errors import UserError
from pivot_jax.eval import comparison, folders, predictions, statistics
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.questions import RunOptions
from pivot_jax.eval.run import evaluate, run_benchmark
from pivot_jax.eval.score import Rules, checked, score_file
from pivot_jax.report import benchmarks as report
from tests.eval.conftest import pairs
from tests.tiny import scripted

TEXTS = {"1": "A", "2": "B. Closed", "3": "open", "4": "The answer is B", "5": "hm", "6": ""}


@pytest.fixture
def many(monkeypatch):
    items = [replace(one, images=(np.full((8, 8, 3), i, np.uint8),)) for i, one in enumerate(pairs(40))]
    monkeypatch.setitem(suite.BENCHMARKS, "mmvp", replace(suite.BENCHMARKS["mmvp"], read=lambda path: items))


def test_the_same_answers_under_all_toolkits(toy, tmp_path):
    file = run_benchmark("mmvp", ".", scripted.Scripted(lambda e: TEXTS[e.id]), tmp_path / "p.jsonl")
    found = comparison.under_all_toolkits(*checked(file))
    assert found.keys() == suite.find("mmvp").variants.keys()
    assert found["ours"].scores.tolist() == [1, 1, 1, 1, 0, 0] and found["ours"].unread == pytest.approx(2 / 6)
    assert found["cambrian"].scores.tolist() == [1, 0, 1, 1, 0, 0]
    (differ,) = comparison.disagreements(predictions.read(file), {name: found[name] for name in ("ours", "cambrian")})
    assert differ.row["question_id"] == "2" and differ.scores == {"ours": 1.0, "cambrian": 0.0}


def test_rules_are_replaced_one_by_one(toy, tmp_path):
    file = run_benchmark("mmvp", ".", scripted.Scripted(lambda e: TEXTS[e.id]), tmp_path / "p.jsonl")
    assert score_file(file, rules=Rules("cambrian", scorer="strict_letter")).scores.tolist() == [1, 1, 1, 1, 0, 0]
    assert score_file(file, rules=Rules("cambrian")).scorer == "letter_or_text"
    with pytest.raises(UserError, match="scorer 'strict' is unknown; there are .*strict_letter"):
        score_file(file, rules=Rules(scorer="strict"))
    with pytest.raises(UserError, match="toolkit 'cambrain' is unknown; here it is one of ours, cambrian"):
        score_file(file, rules=Rules("cambrain"))


def test_paired_models(many, tmp_path):
    right = {str(i + 1): "AB"[i % 2] for i in range(40)}
    generator = np.random.default_rng(0)
    flips = {one: "AB".replace(right[one], "") if generator.random() < 0.4 else right[one] for one in right}
    first = run_benchmark("mmvp", ".", scripted.Scripted(lambda e: right[e.id]), tmp_path / "a.jsonl")
    second = run_benchmark("mmvp", ".", scripted.Scripted(lambda e: flips[e.id]), tmp_path / "b.jsonl")
    rows = second.read_text().splitlines()
    second.write_text("\n".join(reversed(rows[:30])) + "\n")  # another order, and some questions missing
    (found,) = comparison.paired([(first, second)])
    units = [all(flips[str(2 * k + j + 1)] == right[str(2 * k + j + 1)] for j in range(2)) for k in range(15)]
    assert found.difference.value == pytest.approx(1 - np.mean(units)) and found.unpaired == 10
    assert (found.only_first, found.only_second) == (units.count(False), 0)
    assert found.p == found.adjusted == statistics.mcnemar(np.ones(15, bool), np.asarray(units))
    twice = comparison.paired([(first, second), (first, second)])
    assert [one.adjusted for one in twice] == pytest.approx([min(1, 2 * found.p)] * 2)


def test_models_that_cannot_be_compared(many, tmp_path):
    answer = scripted.Scripted(lambda e: "A")
    first = run_benchmark("mmvp", ".", answer, tmp_path / "a.jsonl", RunOptions(limit=4))
    other = tmp_path / "b.jsonl"
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    other.write_text("".join(json.dumps(row | {"prompt": "another"}) + "\n" for row in rows))
    with pytest.raises(UserError, match="asked question '1' with different prompts"):
        comparison.paired([(first, other)])
    other.write_text("".join(json.dumps(row | {"question_id": f"x{i}"}) + "\n" for i, row in enumerate(rows)))
    with pytest.raises(UserError, match="no question in common"):
        comparison.paired([(first, other)])


def test_controls(many, tmp_path):
    """Shuffled images give every question another's image; all orders of the options count as one question."""
    seen: dict[str, list] = {}

    def look(example):
        seen[example.id] = [int(image[0, 0, 0]) for image in example.images]
        return "A"

    evaluate("mmvp", ".", scripted.Scripted(look), tmp_path / "s.jsonl", RunOptions(control="shuffled-images"))
    assert sorted(image for (image,) in seen.values()) == [*range(40)]
    assert all(seen[str(i + 1)] != [i] for i in range(40))
    options = RunOptions(control="rotated-options")
    always_a = evaluate("mmvp", ".", scripted.Scripted(lambda e: "A"), tmp_path / "r.jsonl", options)
    assert (always_a.metric, always_a.value.value, len(always_a.ids), always_a.value.n) == (
        "circular_accuracy",
        0,
        80,
        40,
    )
    knows = scripted.Scripted(lambda e: e.extra["choices"][["A", "B"].index(e.extra["answer"])])
    assert evaluate("mmvp", ".", knows, tmp_path / "k.jsonl", options).value.value == 1.0
    assert score_file(tmp_path / "k.jsonl").metric == "circular_accuracy"
    with pytest.raises(UserError, match="control 'shuffled' is unknown"):
        run_benchmark("mmvp", ".", knows, tmp_path / "x.jsonl", RunOptions(control="shuffled"))


def test_a_limit_takes_whole_groups(many, tmp_path):
    found = evaluate("mmvp", ".", scripted.Scripted(lambda e: "A"), tmp_path / "p.jsonl", RunOptions(limit=3))
    assert found.ids == ("1", "2", "3", "4")


def test_a_benchmark_of_one_s_own(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from pivot_jax.eval.benchmarks.base import Benchmark, Item, Variant\n"
        "def read(path):\n    return [Item('1', 'How many?', answers=('3',))]\n"
        "variant = Variant(lambda item: item.question + ' One number.', 'exact')\n"
        "BENCHMARKS = {'mine': Benchmark(read, {'ours': variant}, 'number')}\n"
    )
    name = str(file)
    found = evaluate(name, ".", scripted.Scripted(lambda e: "3."), tmp_path / "p.jsonl")
    assert found.value.value == 1.0 and found.benchmark == name
    assert json.loads((tmp_path / "p.jsonl").read_text())["prompt"] == "How many? One number."
    with pytest.raises(UserError, match="it has mine; name one as"):
        suite.find(f"{name}:other")
    file.write_text("BENCHMARKS = {'mine': 3}\n")
    with pytest.raises(UserError, match="needs a dict BENCHMARKS"):
        suite.find(name)
    file.write_text("1 / 0\n")
    with pytest.raises(UserError, match="mine.py: ZeroDivisionError"):
        suite.find(name)


def test_a_folder_and_its_page(many, tmp_path, capsys):
    right = {str(i + 1): "AB"[i % 2] for i in range(40)}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    runs = {"one": lambda e: right[e.id], "two": lambda e: "A"}
    for name, answer in runs.items():
        run_benchmark("mmvp", ".", scripted.Scripted(answer), tmp_path / name / "mmvp.jsonl")
    blank = scripted.Scripted(lambda e: "A", blank_images=True)
    run_benchmark("mmvp", ".", blank, tmp_path / "one" / "mmvp-blank.jsonl")
    found = folders.read(tmp_path / "one")
    assert [(one.label, one.control) for one in found] == [("mmvp", "blank-images"), ("mmvp", "")]
    page = report.build(found)
    assert "100.0 [83.9, 100.0], 0.0 with blank images." in page.summary
    arguments = ["score", "--predictions", str(tmp_path / "one"), "--against", str(tmp_path / "two")]
    assert cli.main([*arguments, "--out", str(tmp_path / "page")]) == 0
    out = capsys.readouterr().out
    assert "+100.00" in out and "McNemar" in out
    html = (tmp_path / "page" / "report.html").read_text()
    assert "Paired differences" in html and "Wrong" not in html.split("mmvp: all numbers")[0]
    assert cli.main(["score", "--predictions", str(tmp_path / "one"), "--compare"]) == 0
    assert capsys.readouterr().out.count("0 answers scored differently") == 2  # of the plain and the blank file
    assert cli.main(["score", "--predictions", str(tmp_path / "one"), "--benchmark", "pope"]) == 1
    assert "its answers are to mmvp, not to pope" in capsys.readouterr().err
    assert cli.main(["score", "--predictions", str(tmp_path / "one" / "mmvp.jsonl"), "--compare"]) == 0
    assert "0 answers scored differently" in capsys.readouterr().out
    assert cli.main(["score", "--predictions", str(tmp_path / "one"), "--against", str(tmp_path / "none")]) == 1
    (tmp_path / "empty").mkdir()
    assert cli.main(["score", "--predictions", str(tmp_path / "empty")]) == 1
    assert "holds no predictions" in capsys.readouterr().err
