"""Multiple-choice benchmarks from published files to a score, under every toolkit's rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.run import evaluate
from pivot_jax.eval.score import Rules, score_file
from tests.eval.benchmarks import published_rows
from tests.tiny import scripted

FILES = {
    "ai2d": "ai2d",
    "blink": "blink",
    "cv-bench": "cv_bench",
    "mmbench": "mmbench",
    "mme-realworld": "mme_realworld",
    "mmstar": "mmstar",
    "mmvp": "mmvp",
    "realworldqa": "realworldqa",
    "scienceqa": "scienceqa",
    "seed": "seed",
}


@pytest.mark.parametrize("name", FILES)
def test_right_answers_are_right_under_every_rule(name: str, tmp_path: Path) -> None:
    folder = published_rows.write_tables(FILES[name], tmp_path)
    oracle = scripted.Scripted(lambda example: example.extra["answer"])
    file = tmp_path / "right.jsonl"
    assert evaluate(name, folder, oracle, file).value.value == 1.0
    for toolkit in suite.find(name).variants:
        if (name, toolkit) != ("realworldqa", "vlmevalkit"):  # it takes options for every question
            found = score_file(file, rules=Rules(toolkit=toolkit))
            assert (found.value.value, found.unread) == (1.0, 0.0), toolkit
    silent = evaluate(name, folder, scripted.Scripted(lambda example: ""), tmp_path / "silent.jsonl")
    assert (silent.value.value, silent.unread) == (0.0, 1.0)
