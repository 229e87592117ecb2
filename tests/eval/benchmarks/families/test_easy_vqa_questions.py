"""The benchmark easy-vqa: questions of a prepared folder, exact match, intervals that draw images whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.score import score_file

ROWS = [
    ("test-0", "images/test/0.png", "what color is the shape?", "teal", "color"),
    ("test-1", "images/test/0.png", "is there a circle?", "no", "presence"),
    ("test-2", "images/test/1.png", "is there not a circle?", "yes", "absence"),
]


def write(path, rows=ROWS):
    names = ("id", "image", "question", "answer", "kind")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return path


def test_questions_of_a_folder_or_a_file(tmp_path):
    write(tmp_path / "test.jsonl")
    (first, *_), found = suite.find("easy-vqa").read(tmp_path), suite.find("easy-vqa").read(tmp_path / "test.jsonl")
    assert [one.id for one in found] == ["test-0", "test-1", "test-2"] and first == found[0]
    assert suite.examples("easy-vqa", tmp_path)[0].messages[0].content == "<image>\nwhat color is the shape?"
    assert first.images == (str(tmp_path / "images/test/0.png"),)
    assert first.category == "color" and first.answers == ("teal",)
    assert [one.unit for one in found] == ["images/test/0.png"] * 2 + ["images/test/1.png"]
    assert found[1].choices == ("yes", "no")


def test_wrong_files(tmp_path):
    with pytest.raises(UserError, match=r"easy-VQA: .* holds no test\.jsonl"):
        suite.find("easy-vqa").read(tmp_path)
    (tmp_path / "test.jsonl").write_text('{"id": "1", "question": "x", "answer": "no", "kind": "presence"}\n')
    with pytest.raises(UserError, match=r"row '1': no 'image'; a question has id, image, question, answer, kind"):
        suite.find("easy-vqa").read(tmp_path)


def predictions(path, right):
    """Answers to questions of which ten share an image."""
    rows = [
        {"question_id": str(i), "prompt": "", "answer": "yes" if good else "no", "gt_answer": "yes",
         "category": "presence" if i % 2 else "absence", "choices": [], "finished": True, "benchmark": "easy-vqa",
         "questions": len(right), "unit": f"image{i // 10}"}
        for i, good in enumerate(right)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_intervals_draw_images(tmp_path):
    right = np.repeat(np.random.default_rng(0).random(40) < 0.7, 10)  # all answers about an image agree
    found = score_file(predictions(tmp_path / "a.jsonl", right))
    units = [i // 10 for i in range(400)]
    expected = statistics.mean(right.astype(float), units)
    assert found.metric == "accuracy" and found.value.value == right.mean()
    assert (found.value.low, found.value.high, found.value.n) == (expected.low, expected.high, 40)
    alone = statistics.mean(right.astype(float))
    assert found.value.high - found.value.low > 2 * (alone.high - alone.low)
    assert {one.n for one in found.by_category.values()} == {40}
    assert found.clusters is not None and found.units is None and found.per_unit().shape == (400,)


def test_answers_without_their_image(tmp_path):
    file = predictions(tmp_path / "a.jsonl", [True, False])
    file.write_text(file.read_text().replace('"unit"', '"other"'))
    with pytest.raises(UserError, match=r"field 'unit' is missing; .* belong together \(pairs, or one image\)"):
        score_file(file)
