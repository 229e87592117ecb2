"""MAYE's data sets from small folders with the published ones' schema."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from pivot_jax.cli import main as cli
from pivot_jax.data import sources
from pivot_jax.errors import UserError
from pivot_jax.rl import maye_sets


def image(number, format="PNG"):
    pixels = np.full((12, 16, 3), number % 250, np.uint8)
    pixels[0, 0] = (number // 250, 1, 2)
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, format=format)
    return packed.getvalue()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Twelve problems of MM_Math, nine of geometry3k, six of MathVerse in three versions each."""
    sizes = {
        "mm_math_rl": 6, "mm_math_validation": 2, "math_verse_test": 2,
        "geometry3k_rl": 5, "geometry3k_validation": 2, "geometry3k_test": 2,
    }  # fmt: skip
    monkeypatch.setattr(maye_sets, "SIZES", sizes)
    root = tmp_path / "published"
    (root / "MM_Math/Image").mkdir(parents=True)
    rows = []
    for number in range(12):
        (root / f"MM_Math/Image/{number}.png").write_bytes(image(number))
        value = "AB \\parallel CD" if number in (3, 7) else f"{number}\\sqrt{{3}}" if number % 2 else f"{number}^\\circ"
        solution = f"We add. So the answer is $\\boxed{{{value}}}$."
        rows.append({"question": f"Find $x_{number}$", "file_name": f"{number}.png", "solution": solution, "year": "7"})
    (root / "MM_Math/MM_Math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "geometry3k/data").mkdir(parents=True)
    for split, count in (("train", 5), ("validation", 2), ("test", 2)):
        first = 100 if split == "train" else 103  # the held-out images are in training too
        columns = {
            "images": [[{"bytes": image(first + i), "path": None}] for i in range(count)],
            "problem": [f"<image>Find x in {split} {i}." for i in range(count)],
            "answer": [f"{i}" for i in range(count)],
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), root / f"geometry3k/data/{split}-00000-of-00001.parquet")
    (root / "MathVerse").mkdir()
    table = [
        {"problem_index": f"{i}", "problem_version": version, "question": f"{version} {i}", "answer": answer,
         "question_type": kind, "image": {"bytes": image(200 + i), "path": None}}
        for i, (answer, kind) in enumerate(
            [("5", "free-form"), ("x=1", "free-form"), ("B", "multi-choice"),
             ("2.5 cm", "free-form"), ("7", "free-form"), ("8", "multi-choice")]
        )
        for version in ("Text Dominant", "Vision Only", "Text Lite")
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), root / "MathVerse/testmini.parquet")
    return root


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_mayes(published, tmp_path):
    about = maye_sets.prepare(published, tmp_path / "out")
    assert about["rows"] == about["paper"] == maye_sets.SIZES
    for name in about["rows"]:
        found = sources.read({"format": "maye", "path": str(tmp_path / f"out/{name}_v0.jsonl")})
        assert len(found) == about["rows"][name]
        for index in range(len(found)):
            one = found[index]
            assert one.messages[0].content.count("<image>") == 1 and one.messages[0].content.endswith("\\boxed{}.")
            assert Image.open(one.images[0]).size == (16, 12) and "boxed" in one.extra["solution"]
    train, held_out = (rows_of(tmp_path / f"out/mm_math_{name}_v0.jsonl") for name in ("rl", "validation"))
    ids = [row["id"] for row in (*train, *held_out)]
    assert len(set(ids)) == 8 and not {"3.png", "7.png"} & set(ids)  # their answers are no numbers
    tests = rows_of(tmp_path / "out/math_verse_test_v0.jsonl")
    assert all(row["question"].startswith("Text Dominant") and row["answer"] in ("5", "2.5 cm", "7") for row in tests)
    assert about["test_images_in_training"] == {
        "mm_math_validation": 0, "math_verse_test": 0, "geometry3k_validation": 2, "geometry3k_test": 2,
    }  # fmt: skip


def test_the_same_seed_gives_the_same_bytes(published, tmp_path):
    about = maye_sets.prepare(published, tmp_path / "a")
    assert maye_sets.prepare(published, tmp_path / "b") == about
    other = maye_sets.prepare(published, tmp_path / "b", seed=1, overwrite=True)
    assert other["sha256"]["mm_math_rl"] != about["sha256"]["mm_math_rl"]
    assert other["sha256"]["geometry3k_rl"] == about["sha256"]["geometry3k_rl"]  # all of it, in its own order


def test_a_part_of_the_sources(published, tmp_path, capsys):
    shutil.rmtree(published / "MM_Math")
    shutil.rmtree(published / "MathVerse")
    command = ["prepare", "maye", "--source", str(published), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    assert "geometry3k_test_v0.jsonl" in capsys.readouterr().out
    assert cli.main(command) == 1 and "--overwrite" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite"]) == 0


def test_what_is_missing_is_named(published, tmp_path):
    with pytest.raises(UserError, match="no folder MM_Math, MathVerse or geometry3k in it"):
        maye_sets.prepare(tmp_path, tmp_path / "out")
    (published / "MM_Math/Image/4.png").unlink()
    with pytest.raises(UserError, match=r"image 4\.png is not below .*MM_Math; unpack Image\.zip there"):
        maye_sets.prepare(published, tmp_path / "out")
    lines = (published / "MM_Math/MM_Math.jsonl").read_text().splitlines()[:3]
    (published / "MM_Math/MM_Math.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match="MM_Math: 3 problems have a number for an answer, and 8 are needed"):
        maye_sets.prepare(published, tmp_path / "out")
    assert not (tmp_path / "out").exists()
