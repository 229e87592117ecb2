"""BLINK: both published forms, several images, and the toolkits' prompts and verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.base import Item
from pivot_jax.eval.benchmarks.families import blink
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows

VARIANTS = blink.BENCHMARKS["blink"].variants
# pandas reads a column of which some cells are empty and all others numbers as numbers, as here C and D. The file of
# VLMEvalKit has texts in these columns.
AS_NUMBERS = {"0": (("C. 2\nD. 1\n", "C. 2.0\nD. 1.0\n"),)}


def _hub(folder: Path) -> list[Item]:
    """In the order of the rows; the tasks are read in the order of the alphabet."""
    items = blink.read(published_rows.write_tables("blink", folder))
    by_id = {items[at].id: items[at] for at in range(len(items))}
    return [by_id[row["idx"]] for row in published_rows.ROWS["blink"]]


def test_both_forms(tmp_path: Path) -> None:
    hub = _hub(tmp_path)
    tsv = blink.read(published_rows.write_tsv("blink", tmp_path, "BLINK.tsv"))
    for at, ours in enumerate(hub):
        theirs = tsv[at]
        assert (ours.question, ours.images, ours.choices, ours.answers, ours.category) == (
            theirs.question, theirs.images, theirs.choices, theirs.answers, theirs.category,
        )  # fmt: skip
    assert [len(item.images) for item in hub] == [1, 1, 3, 4]


def test_a_folder_of_other_configurations_is_named(tmp_path: Path) -> None:
    folder = published_rows.write_tables("mmbench", tmp_path)
    with pytest.raises(UserError, match=r"BLINK: .* holds en, none of the tasks Art_Style, .*; name another"):
        blink.read(folder)


@pytest.mark.parametrize("toolkit", ["lmms-eval", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    golden_files.check_prompts("blink", toolkit, _hub(tmp_path))


def test_prompts_of_vlmevalkit(tmp_path: Path) -> None:
    items = blink.read(published_rows.write_tsv("blink", tmp_path))
    for at, recorded in golden_files.read("prompts_vlmevalkit")["benchmarks"]["blink"].items():
        prompt = VARIANTS["vlmevalkit"].prompt(items[int(at)])
        for text, number in AS_NUMBERS.get(at, ()):
            assert text in prompt
            prompt = prompt.replace(text, number)
        assert prompt == recorded["prompt"]


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    assert golden_files.differences("blink", toolkit, VARIANTS[toolkit].scorer) == (1600, {})


def test_cambrian_shows_the_first_image(tmp_path: Path) -> None:
    last = _hub(tmp_path)[-1]
    assert len(VARIANTS["cambrian"].example(last).images) == 1 and len(VARIANTS["ours"].example(last).images) == 4
    variant = blink.BENCHMARKS["blink"].variant("ours", prompt="cambrian")
    assert len(variant.example(last).images) == 1


def test_the_mean_over_tasks_and_over_questions() -> None:
    rows = [
        {"question_id": str(at), "answer": answer, "gt_answer": "A", "choices": ["x", "y"], "category": task}
        for at, (answer, task) in enumerate([("A", "Counting"), ("A", "Counting"), ("B", "Counting"), ("B", "Jigsaw")])
    ]
    found = score_rows("blink", rows)
    assert (found.metric, found.value.value) == ("task_mean", pytest.approx(1 / 3))
    assert found.secondary["accuracy"].value == 0.5 and found.by_category["Counting"].value == pytest.approx(2 / 3)
    assert score_rows("blink", rows, Rules(toolkit="lmms-eval")).value.value == 0.5
