"""Your own questions in every form, their categories and units, and messages for rows that are none."""

from __future__ import annotations

import csv
import json
import re

import datasets
import pytest

from pivot_jax.data.example import Message
from pivot_jax.errors import UserError
from pivot_jax.eval import predictions
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.families import qa
from pivot_jax.eval.run import RunOptions, evaluate
from pivot_jax.eval.scoring.own_questions import choice_or_exact
from pivot_jax.eval.scoring.scorers import Gold
from tests.eval.benchmarks.published.table import png
from tests.tiny import commands, scripted

LETTER = "\nAnswer with the option's letter from the given choices directly."


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path, *rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def only(path, **columns):
    items = qa.read(path, **columns)
    assert len(items) == 1
    return items[0]


def test_llava_conversations(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    turns = [("human", "<image>\nWhat is it?"), ("gpt", "A cup."), ("human", "Its color?"), ("gpt", "Red")]
    row = {"id": "7", "image": "a.png", "conversations": [{"from": who, "value": text} for who, text in turns]}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    item = only(tmp_path / "test.json")
    assert (item.id, item.question, item.answers, item.images) == (
        "7",
        "Its color?",
        ("Red",),
        (str(tmp_path / "a.png"),),
    )
    assert item.context == (Message("user", "<image>\nWhat is it?"), Message("assistant", "A cup."))
    assert qa.prompt(item) == "Its color?"  # the image is in the first turn


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "What color?"}, {"role": "assistant", "content": "red"}]},
        {"prompt": "What color?", "completion": "red"},
        {"prompt": [{"role": "user", "content": "What color?"}], "answer": ["red", "scarlet"]},
    ],
)
def test_trl_rows(tmp_path, fields):
    item = only(jsonl(tmp_path / "test.jsonl", fields))
    assert item.question == "What color?" and item.answers[0] == "red" and item.id == "test.jsonl:1"
    assert qa.prompt(item) == "What color?"


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv", ".parquet"])
def test_columns_in_every_file(tmp_path, suffix):
    (tmp_path / "a.png").write_bytes(png(1))
    row = {"question_id": "q1", "query": "How many?", "answers": '["3", "three"]', "image": "a.png"}
    path = tmp_path / f"test{suffix}"
    if suffix == ".parquet":
        datasets.Dataset.from_list([row]).to_parquet(path)
    elif suffix == ".json":
        path.write_text(json.dumps([row]))
    else:
        (jsonl if suffix == ".jsonl" else table)(path, row)
    item = only(path)
    assert (item.id, item.question, item.answers, item.choices) == ("q1", "How many?", ("3", "three"), ())
    assert item.images == (str(tmp_path / "a.png"),)
    assert qa.prompt(item) == "<image>\nHow many?"


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"choices": ["cat", "dog"]}, "B"),
        ({"options": "['cat', 'dog']"}, "dog"),
        ({"choices": ["cat", "dog"]}, 1),
        ({"A": "cat", "B": "dog"}, "B"),
        ({"A": "cat", "B": "dog"}, "dog"),
    ],
)
def test_options_follow_the_question(tmp_path, options, answer):
    item = only(jsonl(tmp_path / "test.jsonl", {"id": 3, "question": "Which?", "answer": answer} | options))
    assert (item.id, item.choices, item.answers) == ("3", ("cat", "dog"), ("B",))
    assert qa.prompt(item) == f"Which?\nA. cat\nB. dog{LETTER}"


def test_options_of_a_conversation_are_in_its_text(tmp_path):
    row = {"prompt": "Cat or dog?", "completion": "dog", "choices": ["cat", "dog"]}
    path = jsonl(tmp_path / "test.jsonl", row)
    item = only(path)
    assert qa.prompt(item) == "Cat or dog?" and item.answers == ("B",)
    model = scripted.Scripted(lambda example: "dog")
    with pytest.raises(UserError, match=r"rotated-options: question 'test.jsonl:1#1' has its options in its text"):
        evaluate("qa", path, model, tmp_path / "out.jsonl", RunOptions(control="rotated-options", show=False))
    assert evaluate("qa", path, model, tmp_path / "out.jsonl", RunOptions(show=False)).value.value == 1


def test_vlmevalkits_form(tmp_path):
    """Images in base64, of which a row can name another row's."""
    from tests.eval.benchmarks import published_rows

    rows = published_rows.TSV["mmbench"]
    items = qa.read(published_rows.write_tsv("mmbench", tmp_path))
    by_id = {items[index].id: items[index] for index in range(len(items))}
    assert len(by_id) == len(rows)
    shared = [row for row in rows if row["image"] in by_id]
    assert shared and all(by_id[row["index"]].images == by_id[row["image"]].images for row in shared)
    first = by_id[rows[0]["index"]]
    assert first.answers == (rows[0]["answer"],) and first.category == rows[0]["category"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "What?", "image": "a.png"},
            "no question .fields: text, image.; looked for conversations .LLaVA., messages",
        ),
        (
            {"question": "What?"},
            "no correct answer .fields: question.; .* with one of answer, answers, gt_answer, label",
        ),
        ({"question": "What?", "answer": None}, "row 'test.jsonl:1': no correct answer in answer, answers"),
        ({"question": " ", "answer": "x"}, "row 'test.jsonl:1': no question in question or query or problem"),
        ({"question": "What?", "answer": {"a": 1}}, "column 'answer' has {'a': 1}; an answer is a text or a number"),
        ({"question": "Which?", "choices": ["a", "b"], "answer": "c"}, "column 'answer' is 'c', which is none of"),
        ({"question": "What?", "answer": "x", "image": "../a.png"}, "image ../a.png is outside"),
        (
            {"messages": [{"role": "user", "content": "What?"}]},
            "no answer to compare with; give the row a field 'answer'",
        ),
    ],
)
def test_rows_that_are_no_questions(tmp_path, row, message):
    with pytest.raises(UserError, match=f"^qa: .*{message}"):
        qa.read(jsonl(tmp_path / "test.jsonl", row))


def test_a_later_bad_row_is_named(tmp_path):
    good = {"question": "What?", "answer": "x"}
    items = qa.read(jsonl(tmp_path / "test.jsonl", good, good | {"answer": ""}))
    with pytest.raises(UserError, match="row 'test.jsonl:2': no correct answer"):
        items[1]


def test_an_empty_file(tmp_path):
    with pytest.raises(UserError, match="qa: .* has no rows"):
        qa.read(jsonl(tmp_path / "test.jsonl"))


def rows_of_two_images(tmp_path, **more):
    rows = [
        {
            "id": number,
            "question": f"Question {number}?",
            "answer": "yes",
            "kind": "ab"[number % 2],
            "photo": number // 4,
        }
        for number in range(8)
    ]
    return jsonl(tmp_path / "test.jsonl", *(row | more for row in rows))


def test_categories_and_units_by_column(tmp_path):
    path, out = rows_of_two_images(tmp_path), tmp_path / "out.jsonl"
    model = scripted.Scripted(lambda example: "Yes." if int(example.id) < 4 else "no")
    plain = evaluate("qa", path, model, out, RunOptions(show=False))
    assert plain.value.value == 0.5 and plain.value.n == 8 and not plain.by_category
    by_column = evaluate("qa", path, model, out, RunOptions(show=False, category="kind", unit="photo"))
    assert len(model.asked) == 8  # answers are kept: only what they are scored with has changed
    assert by_column.by_category.keys() == {"a", "b"} and by_column.value.n == 2
    assert (by_column.value.low, by_column.value.high) == (0.0, 1.0)  # two images, one right and one wrong
    assert {row["unit"] for row in predictions.read(out)} == {"0", "1"}


def test_a_corrected_answer_is_scored_without_asking_again(tmp_path):
    path, out = rows_of_two_images(tmp_path), tmp_path / "out.jsonl"
    model = scripted.Scripted(lambda example: "no")
    assert evaluate("qa", path, model, out, RunOptions(show=False)).value.value == 0
    rows_of_two_images(tmp_path, answer="no")
    assert evaluate("qa", path, model, out, RunOptions(show=False)).value.value == 1
    assert len(model.asked) == 8


def test_columns_that_are_not_there(tmp_path):
    path = rows_of_two_images(tmp_path)
    with pytest.raises(
        UserError, match=r"qa: .*column 'color' is missing \(columns: id, question, answer, kind, photo\)"
    ):
        qa.read(path, category="color")
    with pytest.raises(UserError, match="column 'photo' is None; each row needs a text or a number"):
        qa.read(jsonl(path, {"question": "a", "answer": "b", "photo": None}), unit="photo")
    with pytest.raises(UserError, match=r"--unit: only for your own questions \(--benchmark qa\)"):
        suite.find("mmvp").items(tmp_path, unit="image")


def test_ranking_leaves_out_questions_without_options(tmp_path):
    path = jsonl(
        tmp_path / "test.jsonl",
        {"id": "a", "question": "Which?", "choices": ["x", "y"], "answer": "B"},
        {"id": "b", "question": "What?", "answer": "z"},
    )
    model = scripted.Scripted(lambda example: "B" if example.id == "a" else "z", option=1)
    found = evaluate("qa", path, model, tmp_path / "out.jsonl", RunOptions(show=False, ranked="mean"))
    assert model.ranked == ["a"] and found.value.value == 1
    assert [row.get("ranked") for row in predictions.read(tmp_path / "out.jsonl")] == ["B", None]


def test_choice_or_exact():
    assert choice_or_exact("The answer is (B).", Gold(("B",), ("x", "y"))) == 1
    assert choice_or_exact("B is a letter", Gold(("B",), ("x", "y"))) == 0
    assert choice_or_exact("Red.", Gold(("scarlet", "red"))) == 1
    assert choice_or_exact("It is red", Gold(("red",))) == 0


def test_the_command(world, capsys):
    """A trained run answers questions of a table; scores by kind, and intervals of the images."""
    rows = [json.loads(line) for line in (world / "questions.jsonl").read_text().splitlines()][:6]
    own = [
        {"id": f"q{index}", "query": "What is it?", "gt_answer": "a", "image": row["image"], "kind": "xy"[index % 2]}
        for index, row in enumerate(rows)
    ]
    data = table(world / "own.csv", *own)
    command = ["eval", "--workdir", world / "run", "--benchmark", "qa", "--data", data, "--max-new-tokens", 4]
    assert commands.run(*command, "--category", "kind", "--unit", "image", "--config.eval.batch_size=4") == 0
    shown = capsys.readouterr().out
    assert "qa: 6 questions" in shown and "scorer choice_or_exact" in shown
    assert re.search(r"^ +x +\d", shown, re.MULTILINE) and re.search(r"^ +y +\d", shown, re.MULTILINE)
    answers = predictions.read(world / "run" / "eval" / "qa.jsonl")
    assert [row["unit"] for row in answers] == [row["image"] for row in own]
    assert commands.run(*command, "--category", "color") == 1
    assert "column 'color' is missing (columns: id, query, gt_answer, image, kind)" in capsys.readouterr().err
    scienceqa = ["eval", "--workdir", world / "run", "--benchmark", "scienceqa", "--data", world / "questions.jsonl"]
    assert commands.run(*scienceqa, "--unit", "image") == 1
    assert "--unit: only for your own questions (--benchmark qa)" in capsys.readouterr().err
