"""GQA: questions joined with their images, the toolkits' prompts and verdicts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.base import Item
from pivot_jax.eval.benchmarks.families import gqa
from tests.eval.benchmarks import golden_files, published_rows


def test_questions_are_joined_with_images_by_id(tmp_path: Path) -> None:
    hub = gqa.read(published_rows.write_tables("gqa", tmp_path))
    tsv = gqa.read(published_rows.write_tsv("gqa", tmp_path, "GQA_TestDev_Balanced.tsv"))
    assert len(hub) == len(tsv) == 3
    for at in range(3):
        assert (hub[at].question, hub[at].answers, hub[at].images) == (
            tsv[at].question,
            tsv[at].answers,
            tsv[at].images,
        )
    assert [hub[at].unit for at in range(3)] == ["n161313", "n161313", "n235859"]
    assert (hub[0].id, hub[0].category) == ("201307251", "query")


def test_an_image_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = published_rows.TABLES["gqa"]
    monkeypatch.setitem(published_rows.TABLES, "gqa", [tables[0], type(tables[1])(
        tables[1].path, tables[1].columns, tables[1].rows[:1]
    )])  # fmt: skip
    with pytest.raises(
        UserError, match=r"GQA: row '.*': column 'imageId' is 'n161313', and testdev_balanced_images has"
    ):
        gqa.read(published_rows.write_tables("gqa", tmp_path))


def test_a_folder_without_the_images_is_named(tmp_path: Path) -> None:
    folder = published_rows.write_tables("gqa", tmp_path)
    with pytest.raises(UserError, match="no configuration 'testdev_balanced_images'"):
        gqa.read(folder / gqa.QUESTIONS)


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("gqa", tmp_path)
    golden_files.check_prompts("gqa", toolkit, gqa.read(path))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    count, found = golden_files.differences("gqa", toolkit, gqa.BENCHMARKS["gqa"].variants[toolkit].scorer)
    assert count == 1400 and found == {}


def test_llava_s_recorded_prompts(shared_data: Path) -> None:
    """All 12,578 prompts are a question and the tail of ours."""
    prompt = gqa.BENCHMARKS["gqa"].variants["llava"].prompt
    with gzip.open(shared_data / "eval_outputs_more" / "gqa" / "llava-v1.5-13b.jsonl.gz", "rt") as file:
        recorded = [json.loads(line)["prompt"] for line in file]
    assert len(recorded) == gqa.BENCHMARKS["gqa"].questions
    assert all(prompt(Item("", text.split("\n")[0], ("none",))) == f"<image>\n{text}" for text in recorded)
