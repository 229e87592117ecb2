"""Published files of the benchmarks as questions, and messages for files that are something else."""

from __future__ import annotations

import json

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval import predictions
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.families import mathvision, mmvp
from pivot_jax.eval.questions import RunOptions
from pivot_jax.eval.run import evaluate
from tests.tiny import scripted


def test_benchmarks_of_all_families():
    """Every file of the package but ``base`` and ``suite`` is a family; its benchmarks can be found by name."""
    assert set(suite.BENCHMARKS) >= {"mathvision", "mmvp", "scenes", "scienceqa"}
    assert suite.find("mmvp") is mmvp.BENCHMARKS["mmvp"]
    names = ", ".join(suite.BENCHMARKS)
    with pytest.raises(UserError, match=f"'nothing' is unknown; there are {names}, and any FILE.py"):
        suite.find("nothing")
    with pytest.raises(UserError, match="did you mean 'mmvp'"):
        suite.find("mmvpp")


def test_a_field_of_the_wrong_type_is_one_line(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text('{"id": "7", "question": "What?", "answer": "3", "image": ["0.png"]}\n')
    with pytest.raises(UserError, match=r"MATH-Vision: .*data.jsonl, row '7': 'image' is a list; write a text"):
        mathvision.read(file)


@pytest.mark.parametrize("name", ["mathvision", "mmvp", "scienceqa"])
def test_images_of_a_benchmark_are_in_its_folder(tmp_path, name):
    row = {"id": "7", "question": "What? Options: (a) x (b) y", "answer": "(a)" if name == "mmvp" else "A",
           "choices": ["x", "y"]}  # fmt: skip
    row |= {"images": ["../7.png"], "image": "../7.png"}
    text = json.dumps([row]) if name == "mmvp" else json.dumps(row)
    (tmp_path / ("data.json" if name == "mmvp" else "data.jsonl")).write_text(text + "\n")
    with pytest.raises(UserError, match=rf"image ../7.png is outside {tmp_path}"):
        suite.BENCHMARKS[name].read(tmp_path)[0]


def test_a_name_belongs_to_one_family(monkeypatch):
    monkeypatch.setitem(mathvision.BENCHMARKS, "scenes", mathvision.BENCHMARKS["mathvision"])
    with pytest.raises(ValueError, match="'scenes' in scenes.py has the name of one in another file"):
        suite.collect()


def test_official_layout_of_mmvp(tmp_path):
    (tmp_path / "Questions.csv").write_text(
        "Index,Question,Options,Correct Answer\n"
        '1,"Open or closed, which?",(a) Open (b) Closed,(a)\n2,"Open or closed, which?",(a) Open (b) Closed,(b)\n',
        encoding="utf-8-sig",
    )
    first, second = suite.examples("mmvp", tmp_path, "cambrian")
    assert first.messages[0].content == (
        "<image>\nOpen or closed, which? Options:\nA. Open\nB. Closed"
        "\nAnswer with the option's letter from the given choices directly."
    )
    assert first.images[0].endswith("1.jpg") and first.extra["unit"] == second.extra["unit"] == 0
    assert second.extra["answer"] == "B"
    with pytest.raises(UserError, match="no folder at"):
        mmvp.read(tmp_path / "none")
    with pytest.raises(UserError, match="neither data.json nor Questions.csv"):
        (tmp_path / "Questions.csv").unlink()
        mmvp.read(tmp_path)


@pytest.mark.parametrize("name", ["mmvp", "scienceqa", "mathvision", "scenes"])
def test_the_message_for_a_wrong_path_says_what_is_there(tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"it holds: cat\.png"):
        suite.BENCHMARKS[name].read(tmp_path / "images")
    with pytest.raises(UserError, match=r"did you mean '.*/images'\?|does not exist"):
        suite.BENCHMARKS[name].read(tmp_path / "image")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("# a page\n", "(is not a file of its questions|nor one JSON object a line) .malformed JSON"),
        ('{"id": 1, "answer": "A"}\n', "'?question'?"),
        ("", "is empty"),
    ],
)
def test_other_files_are_not_questions(tmp_path, content, says):
    for name, file in (("scienceqa", "data.jsonl"), ("mathvision", "data.jsonl"), ("mmvp", "data.json")):
        (tmp_path / file).write_text(content)
        with pytest.raises(UserError, match=says):
            suite.BENCHMARKS[name].read(tmp_path)
    (tmp_path / "data.json").unlink()
    (tmp_path / "Questions.csv").write_text("Index,Question\n1,Why?\n")
    with pytest.raises(UserError, match="no column 'Options'"):
        mmvp.read(tmp_path)


def test_whole_mmvp(shared_data, tmp_path):
    examples = list(suite.examples("mmvp", shared_data / "mmvp"))
    assert len(examples) == 300 and len({example.extra["unit"] for example in examples}) == 150
    assert all(len(example.extra["choices"]) == 2 for example in examples)
    oracle = scripted.Scripted(lambda e: e.extra["answer"])
    found = evaluate("mmvp", shared_data / "mmvp", oracle, tmp_path / "right.jsonl")
    assert found.value.value == 1.0 and found.value.n == 150 and found.compliance == 1.0
    texts = scripted.Scripted(lambda e: e.extra["choices"]["AB".index(e.extra["answer"])])
    found = evaluate("mmvp", shared_data / "mmvp", texts, tmp_path / "texts.jsonl", RunOptions(toolkit="cambrian"))
    assert found.value.value == 1.0 and found.compliance == 0.0
    blind = scripted.Scripted(lambda e: "A")
    found = evaluate("mmvp", shared_data / "mmvp", blind, tmp_path / "blind.jsonl")
    assert found.value.value < 0.02 and 0.4 < found.secondary["question_accuracy"].value < 0.6


@pytest.mark.parametrize("name", ["scienceqa", "mathvision"])
def test_other_real_benchmarks(shared_data, tmp_path, name):
    folder = shared_data / {"scienceqa": "scienceqa_test_img", "mathvision": "mathvision"}[name]
    oracle = scripted.Scripted(lambda e: e.extra["answer"])
    found = evaluate(name, folder, oracle, tmp_path / "p.jsonl", RunOptions(limit=200))
    assert found.value.value == 1.0 and len(found.ids) == 200
    assert all(row["prompt"].startswith("<image>\n") for row in predictions.read(tmp_path / "p.jsonl"))
