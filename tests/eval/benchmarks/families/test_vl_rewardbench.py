"""VL-RewardBench: the order of the two answers, the toolkits' prompts, and what is read in a judgment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval import predictions
from pivot_jax.eval.benchmarks.families import vl_rewardbench
from pivot_jax.eval.questions import RunOptions
from pivot_jax.eval.run import evaluate, run_benchmark
from pivot_jax.eval.scoring.judgments import judgment, judgment_lmms_eval
from pivot_jax.eval.scoring.scorers import Gold
from tests.eval.benchmarks import published_rows
from tests.tiny import scripted

GOLDEN = Path(__file__).parents[1] / "golden"
NAME = "vl_rewardbench"
BENCHMARK = vl_rewardbench.BENCHMARKS["vl-rewardbench"]


@pytest.mark.parametrize("form", ["hub", "tsv"])
@pytest.mark.parametrize("toolkit", ["lmms_eval", "vlmevalkit"])
def test_prompts_are_those_of_the_toolkits(tmp_path, toolkit, form):
    write = published_rows.write_tables if form == "hub" else published_rows.write_tsv
    items, variant = BENCHMARK.read(write(NAME, tmp_path)), BENCHMARK.variants[toolkit.replace("_", "-")]
    golden = json.loads((GOLDEN / f"prompts_{toolkit}.json").read_text())["benchmarks"][NAME]
    assert len(golden) == len(items) == 3
    for position, one in golden.items():
        assert variant.prompt(items[int(position)]) == one["prompt"]
        assert list(variant.stop) == one["stop"]
        assert one["max_new_tokens"] in (None, variant.max_new_tokens)
        assert (variant.temperature, variant.top_p) == (one.get("temperature"), one.get("top_p", 1.0))


def test_the_better_answer_and_the_groups(tmp_path):
    """Rows: summed lengths 10 + 21 (odd, swapped), 5 + 6 (odd), 19 + 5 (even); the first, second, second is better."""
    items = BENCHMARK.read(published_rows.write_tables(NAME, tmp_path))
    rows = published_rows.ROWS[NAME]
    for index, row in enumerate(rows):
        item = items[index]
        better = row["response"][row["human_ranking"].index(0)]
        assert item.choices["AB".index(item.answers[0])] == better
        assert (item.choices == tuple(row["response"])) == (sum(map(len, row["response"])) % 2 == 0)
    assert [items[index].category for index in range(3)] == ["hallucination", "reasoning", "general"]
    assert vl_rewardbench.group_of("MMMU_val-3") == "reasoning" and vl_rewardbench.group_of("x") == "general"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response": "['one']"}, "column 'response' has 1 answers, not two"),
        ({"answer": "[0, 0]"}, r"column 'answer' is \[0, 0\], not the ranks"),
        ({"answer": ""}, "column 'answer' is None, not the ranks"),
    ],
)
def test_rows_that_are_no_comparison(tmp_path, change, message):
    rows = [row | change for row in published_rows.TSV[NAME]]
    with pytest.raises(UserError, match=rf"VL-RewardBench: .*VL-RewardBench.tsv:2, index 0': {message}"):
        BENCHMARK.read(published_rows.write_tsv(NAME, tmp_path, "VL-RewardBench.tsv", rows))


@pytest.mark.parametrize(
    ("text", "ours", "lmms_eval"),
    [
        ("Overall Judgment: Answer 1 is better.", "A", "A"),
        ("**Overall Judgment**: **Answer 2** is slightly better.", "B", "B"),
        ("Answer 1 is better at first.\n\nOverall Judgement:\nAnswer 2 is the better one.", "B", "?"),
        ("Therefore, Answer 1 is the better answer.", "A", "A"),
        ("Overall judgment: Answer 1 is better than Answer 2.", "A", "A"),
        ("Overall Judgment: Answer 1", "A", "?"),
        ("Overall Judgment: Both Answer 1 and Answer 2 are good.", "", "?"),
        ("Overall Judgment: Answer 2 is not better.", "", "?"),
        ("Accuracy: Answer 1 is better. Clarity: Answer 2 is better.", "B", "?"),
        ("2", "B", "?"),
        ("Answer 1.", "A", "?"),
        ("Overall Judgment: Answer 3 is better.", "", "3"),
        ("", "", "?"),
    ],
)
def test_what_is_read_in_a_judgment(text, ours, lmms_eval):
    for letter in "AB":
        gold = Gold((letter,), ("one", "two"), id="7")
        assert judgment(text, gold).read == ours and judgment(text, gold) == (ours == letter)
        found = judgment_lmms_eval(text, gold)
        assert (found.guessed, found.read) == (lmms_eval == "?", "" if lmms_eval == "?" else lmms_eval)
        if not found.guessed:
            assert found == (lmms_eval == letter)


def test_guesses_follow_from_the_question():
    golds = [Gold(("A",), id=str(number)) for number in range(400)]
    guesses = [judgment_lmms_eval("I cannot tell", gold) for gold in golds]
    assert guesses == [judgment_lmms_eval("I cannot tell", gold) for gold in golds]
    assert 160 < sum(guesses) < 240


def test_lmms_eval_asks_a_model_where_we_guess():
    """Its pattern finds nothing in any of the odd answers ("?"); ours finds nothing either."""
    recorded = json.loads((GOLDEN / "scores_lmms_eval.json").read_text())["benchmarks"][NAME]
    odd = json.loads((GOLDEN / "odd_answers.json").read_text())
    for gold, verdicts in zip(odd["golds"][NAME], recorded, strict=True):
        own = Gold(({"1": "A", "2": "B"}[gold["answers"][0]],), id="x")
        for answer, verdict in zip((*odd["answers"], *gold["own"]), verdicts, strict=True):
            found = judgment_lmms_eval(answer, own)
            assert found.guessed if verdict == "?" else found == float(verdict), answer


def test_a_long_answer_takes_no_time():
    text = "Therefore" + " \t" * 20000 + "Answer"
    assert judgment_lmms_eval(text, Gold(("A",), id="1")).guessed
    assert judgment(text, Gold(("A",), id="1")).read == ""


def test_an_evaluation_from_files_to_score(tmp_path):
    data = published_rows.write_tables(NAME, tmp_path)
    first = scripted.Scripted(lambda example: "Overall Judgment: Answer 1 is better.")
    found = evaluate("vl-rewardbench", data, first, tmp_path / "a.jsonl", RunOptions(show=False))
    items = BENCHMARK.read(data)
    right = [items[index].answers == ("A",) for index in range(3)]
    assert found.metric == "macro_accuracy" and found.value.value == pytest.approx(sum(right) / 3)
    assert found.by_category.keys() == {"hallucination", "reasoning", "general"}
    assert found.secondary["accuracy"].value == pytest.approx(sum(right) / 3)


@pytest.mark.parametrize(
    ("options", "sampled"),
    [
        ({}, {}),
        ({"toolkit": "lmms-eval"}, {"temperature": 1.0, "top_p": 1.0}),
        ({"prompt": "lmms-eval"}, {"temperature": 1.0, "top_p": 1.0}),
        ({"toolkit": "lmms-eval", "prompt": "ours"}, {}),
        ({"toolkit": "lmms-eval", "temperature": 0.5}, {"temperature": 0.5, "top_p": 1.0}),
    ],
)
def test_answers_are_sampled_where_the_toolkit_does(tmp_path, options, sampled):
    """What the answerer is told is in the rows' settings, so that greedy answers are not taken for sampled ones."""
    data = published_rows.write_tables(NAME, tmp_path)
    answerer = scripted.Scripted(lambda example: "Overall Judgment: Answer 1 is better.")
    file = run_benchmark("vl-rewardbench", data, answerer, tmp_path / "a.jsonl", RunOptions(show=False, **options))
    settings = [row["settings"] for row in predictions.read(file)]
    assert [{name: own[name] for name in ("temperature", "top_p") if name in own} for own in settings] == [sampled] * 3
