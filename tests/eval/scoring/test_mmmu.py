"""MMMU's scorers: the official scores of real answers, the toolkits' verdicts, and the guess."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest

from pivot_jax.eval.scoring import mmmu
from pivot_jax.eval.scoring.aggregate import Scored
from pivot_jax.eval.scoring.guesses import WITH_GUESSES
from pivot_jax.eval.scoring.scorers import Gold
from pivot_jax.eval.scoring.table import SCORERS
from tests.eval.benchmarks import golden_files

MODELS = ["llava1.5_13b", "qwen_vl"]


def read_gz(path):
    with gzip.open(path, "rt") as file:
        return json.load(file)


def real_answers(folder, model):
    """(answer, gold) of the 900 raw responses; a gold without choices is an open question."""
    with gzip.open(folder / "eval_outputs_more" / "mmmu" / f"{model}_responses.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    return [(row["response"], real_gold(row["id"], row["answer"], row.get("index2ans"), row)) for row in rows]


def real_gold(question_id, answer, options, row):
    choices = tuple(options.values()) if row["question_type"] == "multiple-choice" else ()
    several = isinstance(answer, list)
    fields = {"published_answer": repr(answer)} if several else {}
    return Gold(tuple(answer) if several else (answer,), choices, id=question_id, fields=fields)


@pytest.mark.parametrize(
    ("model", "right", "guessed", "open_right", "no_guess"),
    [("llava1.5_13b", 327, 2, 2, 329), ("qwen_vl", 303, 48, 6, 309)],
)
def test_official_parser_on_raw_responses(shared_data, model, right, guessed, open_right, no_guess):
    answers = real_answers(shared_data, model)
    verdicts = [mmmu.mmmu_official(answer, gold) for answer, gold in answers]
    choice = [one for one, (_, gold) in zip(verdicts, answers, strict=True) if gold.choices]
    opened = [one for one, (_, gold) in zip(verdicts, answers, strict=True) if not gold.choices]
    assert (len(choice), len(opened)) == (847, 53)
    assert sum(one for one in choice if not one.guessed) == right
    assert sum(one.guessed for one in choice) == guessed and sum(opened) == open_right
    assert sum(mmmu.mmmu_no_guess(answer, gold) for answer, gold in answers) == no_guess
    found = WITH_GUESSES.summarise(
        [Scored(gold.id, one, gold) for one, (_, gold) in zip(verdicts, answers, strict=True)], 0
    )
    assert found.others["without_guesses"].value == no_guess / 900
    assert found.value.value == sum(verdicts) / 900 >= no_guess / 900


@pytest.mark.parametrize(
    ("name", "right", "published"),
    [
        ("llava1.5_13b_val", 324, 36.0),
        ("llava1.5_13b_total_val_output", 330, 36.7),
        ("qwen_vl_total_val_output", 325, 36.1),
    ],
)
def test_official_scores_of_parsed_answers(shared_data, name, right, published):
    """Files that hold letters already: with the authors' own draws where their parser found none."""
    folder = shared_data / "eval_outputs_more" / "mmmu"
    golds, answers = read_gz(folder / "answer_dict_val.json.gz"), read_gz(folder / f"{name}.json.gz")
    scores = []
    for question_id, answer in answers.items():
        gold = golds[question_id]["ground_truth"]
        if golds[question_id]["question_type"] == "multiple-choice":
            scores.append(float(answer == gold))
        else:
            scores.append(mmmu.mmmu_official(answer, Gold(tuple(gold) if isinstance(gold, list) else (gold,))))
    assert len(scores) == 900 and sum(scores) == right
    assert round(100 * sum(scores) / 900, 1) == published


@pytest.mark.parametrize("model", MODELS)
def test_toolkits_on_raw_responses(shared_data, model):
    """Right of 900 by rule. lmms-eval's guesses are drawn by another seed there.

    VLMEvalKit takes an open question's gold "C" for the letter, which no answer to its two options is.
    """
    expected = {
        "llava1.5_13b": {"mmmu": 330, "mmmu_cambrian": 330, "mmmu_vlmevalkit": 327},
        "qwen_vl": {"mmmu": 304, "mmmu_cambrian": 229, "mmmu_vlmevalkit": 223},
    }[model]
    answers = real_answers(shared_data, model)
    assert {name: sum(SCORERS[name](answer, gold) for answer, gold in answers) for name in expected} == expected
    read = [mmmu.mmmu_lmms_eval(answer, gold) for answer, gold in answers if gold.choices]
    kept = sum(one for one in read if not one.guessed), sum(one.guessed for one in read)
    assert kept == {"llava1.5_13b": (327, 2), "qwen_vl": (304, 44)}[model]


@pytest.fixture
def published_golds(monkeypatch):
    """Golds of the golden file; several golds of an open question are one text in the toolkits."""

    def gold_of(gold):
        golds = tuple(gold["answers"])
        fields = {"published_answer": repr(list(golds))} if len(golds) > 1 else {}
        return Gold(golds, tuple(gold.get("choices", ())), fields=fields)

    monkeypatch.setattr(golden_files, "gold_of", gold_of)


@pytest.mark.parametrize("golden", ["mmmu", "mmmu_open"])
@pytest.mark.parametrize("toolkit", ["cambrian", "lmms-eval", "vlmevalkit"])
def test_verdicts_are_the_toolkits_own(published_golds, monkeypatch, toolkit, golden):
    scorer = f"mmmu_{golden_files.TOOLKITS[toolkit]}"
    guesses = []

    def unguessed(answer, gold):
        verdict = getattr(mmmu, scorer)(answer, gold)
        guesses.append(verdict.guessed)
        return 0.0 if verdict.guessed else verdict

    monkeypatch.setitem(SCORERS, scorer, unguessed)
    count, found = golden_files.differences(golden, toolkit, scorer)
    assert found == {} and count == {"mmmu": 2000, "mmmu_open": 1200}[golden]
    recorded = golden_files.read(f"scores_{golden_files.TOOLKITS[toolkit]}")["benchmarks"][golden]
    assert [mark == "g" for marks in recorded for mark in marks] == guesses


def test_guesses_are_seeded_by_the_question():
    gold = Gold(("B",), ("x", "y", "z"), id="validation_Art_1")
    drawn = [mmmu.mmmu_official("no idea", replace(gold, id=f"q{index}")) for index in range(300)]
    assert all(one.guessed and one.read == "" for one in drawn) and 60 < sum(drawn) < 140
    assert drawn == [mmmu.mmmu_official("no idea", replace(gold, id=f"q{index}")) for index in range(300)]
    assert mmmu.mmmu_no_guess("no idea", gold) == 0 and not mmmu.mmmu_official("(B)", gold).guessed


def test_open_questions_in_lmms_eval():
    """0.7.3 scores them; an open question with several golds has one text that no answer holds."""
    one, several = Gold(("14",)), Gold(("MgS", "$MgS$"), fields={"published_answer": "['MgS', '$MgS$']"})
    assert mmmu.mmmu_lmms_eval("The answer is 14.", one) == mmmu.mmmu_official("The answer is 14.", one) == 1
    assert mmmu.mmmu_lmms_eval_072("The answer is 14.", one) == 0
    assert mmmu.mmmu_official("It is MgS", several) == 1 and mmmu.mmmu_lmms_eval("It is MgS", several) == 0


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("The per unit cost is $7.", "B"),
        ("It is $7 or $8.", ""),
        ("Therefore, the answer is (D).", "D"),
        ("I do not know", ""),
        ("It is $77.", ""),
    ],
)
def test_our_own_reads_the_text_of_an_option(answer, read):
    assert mmmu.mmmu(answer, Gold(("B",), ("$6", "$7", "$8", "$9"))).read == read


@pytest.mark.parametrize(("answer", "right"), [("It is smooth muscle.", 1), ("muscle", 0), ("", 0)])
def test_our_own_open_questions(answer, right):
    assert mmmu.mmmu(answer, Gold(("Smooth muscle",))) == right
    assert mmmu.mmmu("3.43", Gold(("24/7", "3.429"))) == 1
