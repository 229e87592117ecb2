"""MME: both published forms, the toolkits' prompts and verdicts, and LLaVA-1.5-13B's published points."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pivot_jax.eval.benchmarks.base import Item
from pivot_jax.eval.benchmarks.families import mme
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows


def test_both_forms_pair_the_questions_of_an_image_wherever_they_are(tmp_path: Path) -> None:
    hub = mme.read(published_rows.write_tables("mme", tmp_path))
    tsv = mme.read(published_rows.write_tsv("mme", tmp_path, "MME.tsv"))
    assert [hub[i].id for i in range(4)] == [
        "code_reasoning/0020.png", "existence/0001.jpg", "code_reasoning/0020.png#2", "existence/0001.jpg#2",
    ]  # fmt: skip
    assert [tsv[i].id for i in range(4)] == ["0", "1", "2", "3"]
    for items in (hub, tsv):
        assert [items[i].unit for i in range(4)] == ["code_reasoning/0020.png", "existence/0001.jpg"] * 2
        assert [(items[i].answers[0], items[i].category) for i in (0, 1)] == [
            ("Yes", "code_reasoning"), ("No", "existence"),
        ]  # fmt: skip
    assert [tsv[i].images for i in range(4)] == [hub[i].images for i in range(4)]
    assert tsv[2].images == tsv[0].images


def test_a_tsv_without_image_paths_pairs_by_the_rows_that_share_an_image(tmp_path: Path) -> None:
    rows = [{name: cell for name, cell in row.items() if name != "image_path"} for row in published_rows.TSV["mme"]]
    items = mme.read(published_rows.write_tsv("mme", tmp_path, rows=rows))
    assert [items[i].unit for i in range(3)] == ["code_reasoning/0", "existence/1", "code_reasoning/0"]


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("mme", tmp_path)
    golden_files.check_prompts("mme", toolkit, mme.read(path))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    count, found = golden_files.differences("mme", toolkit, mme.BENCHMARKS["mme"].variants[toolkit].scorer)
    assert count == 400 and found == {}


def _golds(folder: Path) -> Iterator[dict[str, str]]:
    with gzip.open(folder / "eval_outputs_more" / "mme" / "golds.tsv.gz", "rt", encoding="utf-8") as file:
        yield from csv.DictReader(file, delimiter="\t")


def _rows(folder: Path) -> list[dict[str, Any]]:
    """LLaVA's answers with the golds, joined by category, image and question."""
    golds = {}
    for row in _golds(folder):
        item = Item("", row["question"], ("none",))
        prompt = mme.BENCHMARKS["mme"].variants["llava"].prompt(item).removeprefix("<image>\n")
        golds[row["category"], Path(row["image"]).stem, prompt] = row
    joined = []
    with gzip.open(folder / "eval_outputs" / "llava15_13b" / "MME_answers.jsonl.gz", "rt") as file:
        for at, answer in enumerate(map(json.loads, file)):
            category, image = answer["question_id"].split("/", 1)
            gold = golds.pop((category, Path(image).stem, answer["prompt"]))  # the recorded prompt is ours
            joined.append(
                {"question_id": f"{at}", "answer": answer["text"], "gt_answer": gold["answer"], "category": category}
                | {"unit": answer["question_id"]}
            )
    assert not golds
    return joined


@pytest.mark.parametrize("toolkit", ["llava", "lmms-eval", "vlmevalkit", "cambrian", "ours"])
def test_points_of_llava_are_those_published(shared_data: Path, toolkit: str) -> None:
    rows = _rows(shared_data)
    expected = json.loads((shared_data / "eval_outputs_more" / "expected.json").read_text())["mme"]
    points = expected["golds.tsv + eval_outputs/llava15_13b/MME_answers"]["recomputed"]
    found = score_rows("mme", rows[::-1], Rules(toolkit))  # in another order than that of the file
    assert (len(rows), len(points), found.percent) == (2374, 16, False)
    assert {name: round(one.value, 4) for name, one in found.intervals().items()} == points
    assert f"{found.value.value:.2f} {found.secondary['cognition'].value:.2f}" == "1531.32 295.36"
