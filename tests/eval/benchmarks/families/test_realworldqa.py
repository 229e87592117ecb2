"""RealWorldQA: both published forms, and the toolkits' prompts and verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivot_jax.eval.benchmarks.families import realworldqa
from pivot_jax.eval.score import score_rows
from tests.eval.benchmarks import golden_files, published_rows

VARIANTS = realworldqa.BENCHMARKS["realworldqa"].variants


def test_questions_of_the_hub_with_and_without_options(tmp_path: Path) -> None:
    items = realworldqa.read(published_rows.write_tables("realworldqa", tmp_path))
    assert [items[at].choices for at in range(3)] == [("Left", "Straight", "Right"), (), ()]
    assert [items[at].answers for at in range(3)] == [("A",), ("3",), ("Downhill",)]
    assert items[0].question == "In which direction is the front wheel facing?"
    assert VARIANTS["ours"].prompt(items[0]) == (
        "<image>\nIn which direction is the front wheel facing?\nA. Left\nB. Straight\nC. Right"
        "\nAnswer with the option's letter from the given choices directly."
    )
    assert VARIANTS["ours"].prompt(items[1]).endswith("\nPlease answer directly with a single word or number.")


def test_all_questions_of_the_tsv_have_options(tmp_path: Path) -> None:
    items = realworldqa.read(published_rows.write_tsv("realworldqa", tmp_path, "RealWorldQA.tsv"))
    assert [items[at].choices for at in range(3)] == [
        ("Left", "Straight", "Right"),
        ("3", "none"),
        ("Downhill", "none"),
    ]
    hub = realworldqa.read(published_rows.write_tables("realworldqa", tmp_path))
    assert VARIANTS["cambrian"].prompt(items[0]) == VARIANTS["cambrian"].prompt(hub[0])  # written as on the hub


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("realworldqa", tmp_path)
    golden_files.check_prompts("realworldqa", toolkit, realworldqa.read(path))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "cambrian"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    assert golden_files.differences("realworldqa", toolkit, VARIANTS[toolkit].scorer) == (1400, {})


def test_ours_reads_letters_and_words() -> None:
    rows = [
        {"question_id": "0", "answer": "The answer is (B).", "gt_answer": "B", "choices": ["x", "y"]},
        {"question_id": "1", "answer": "downhill.", "gt_answer": "Downhill", "choices": []},
        {"question_id": "2", "answer": "It is 3", "gt_answer": "3", "choices": []},
    ]
    assert list(score_rows("realworldqa", rows).scores) == [1, 1, 0]
