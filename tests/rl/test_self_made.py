"""Training data from a model's own responses, read back by the project's readers."""

from __future__ import annotations

import json

import pytest

from pivot_jax.cli import main as cli
from pivot_jax.data import sources
from pivot_jax.errors import UserError
from pivot_jax.rl import self_made

ANSWERS = {
    "both": ["5", "6", "5", "7"],  # the same text counts once
    "right": ["5", "5 "],
    "wrong": ["8", "9"],
}


@pytest.fixture
def log(tmp_path):
    rows = [
        {"id": name, "sample": index, "prompt": f"<image>\nHow many, {name}?", "images": [f"{name}.png"], "answer": "5",
         "completion": text, "finish": "stop", "tokens": 3, "reward": float(text.strip() == "5"), "rewards": {},
         "version": 1}
        for name, texts in ANSWERS.items()
        for index, text in enumerate(texts)
    ]  # fmt: skip
    rows.append(rows[0] | {"completion": "5 but without an end", "finish": "length"})
    (tmp_path / "run/completions").mkdir(parents=True)
    (tmp_path / "run/completions/1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "run"


def read(path):
    return sources.read({"format": "trl", "path": str(path), "image_root": "/data"})


def test_right_responses_and_pairs(log, tmp_path):
    about = self_made.write(log, tmp_path / "out")
    assert (about["questions"], about["responses"]) == (3, 9)
    assert (about["answered_right"], about["answered_both_ways"]) == (2, 1)
    right = read(tmp_path / "out/right.jsonl")
    assert len(right) == 2 and {right[i].messages[-1].content.strip() for i in range(2)} == {"5"}
    (pair,) = [read(tmp_path / "out/pairs.jsonl")[0]]
    assert (pair.id, pair.chosen) == ("both", "5") and pair.rejected in ("6", "7")
    assert pair.messages[0].content == "<image>\nHow many, both?" and pair.images == ("/data/both.png",)


def test_several_rows_of_a_question_and_the_seed(log, tmp_path):
    about = self_made.write(log, tmp_path / "a", most=3)
    assert about["rows"] == {"right.jsonl": 3, "pairs.jsonl": 1}
    assert self_made.write(log, tmp_path / "b", most=3) == about
    chosen = {
        self_made.write(log, tmp_path / "b", seed=seed, overwrite=True)["sha256"]["pairs.jsonl"] for seed in range(12)
    }
    assert len(chosen) == 2  # either wrong response


def test_the_command(log, tmp_path, capsys):
    command = ["prepare", "responses", "--log", str(log), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--judge", "exact"]) == 0
    assert "of 3 questions 2 have a right response, 1 a wrong one too" in capsys.readouterr().out
    assert cli.main(command) == 1 and "--overwrite" in capsys.readouterr().err
    with pytest.raises(UserError, match="none of its 9 responses is right"):
        from pivot_jax.rl.scheme.reading import Settings
        from pivot_jax.rl.scheme.responses import Scoring

        self_made.write(log, tmp_path / "other", Settings(scoring=Scoring(above=2.0)))
