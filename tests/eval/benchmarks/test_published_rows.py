"""The published rows as files, and that the golden files speak of these rows and of the published figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import datasets
import pytest

from tests.eval.benchmarks import published_rows

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", published_rows.TABLES)
def test_parquet_files_hold_the_rows_with_their_types(tmp_path: Path, name: str) -> None:
    folder = published_rows.write_tables(name, tmp_path)
    for table in published_rows.TABLES[name]:
        read = datasets.Dataset.from_parquet(str(folder / table.path), cache_dir=str(tmp_path / "cache"))
        assert read.features == table.features and len(read) == len(table.rows)
        images = {column for column, kind in table.columns.items() if kind in ("image", ["image"])}
        for row, written in zip(read.remove_columns(list(images)), table.rows, strict=True):
            assert row == {column: value for column, value in written.items() if column not in images}


@pytest.mark.parametrize("name", published_rows.TSV)
def test_tsv_files_hold_the_rows(tmp_path: Path, name: str) -> None:
    csv.field_size_limit(10**7)
    with published_rows.write_tsv(name, tmp_path).open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file, delimiter="\t")) == published_rows.TSV[name]
    indices = [row["index"] for row in published_rows.TSV[name]]
    assert len(set(indices)) == len(indices)
    references = {row["image"] for row in published_rows.TSV[name] if len(row["image"]) <= 64}
    assert references <= set(indices)


@pytest.mark.parametrize("toolkit", ["lmms_eval", "vlmevalkit", "cambrian", "llava"])
def test_golden_prompts_are_of_these_rows(toolkit: str) -> None:
    content = json.loads((GOLDEN / f"prompts_{toolkit}.json").read_text(encoding="utf-8"))
    rows = published_rows.TSV if toolkit == "vlmevalkit" else published_rows.ROWS
    for name, prompts in content["benchmarks"].items():
        known = rows.get(name) or rows[name.rpartition("_")[0]]  # MathVista has three tasks in lmms-eval
        without_image = name == "hallusionbench" and toolkit == "lmms_eval"
        assert list(prompts) == [str(at) for at in range(len(known) - without_image)], name


def test_toolkits_reproduce_the_published_figures() -> None:
    files = json.loads((GOLDEN / "real_files.json").read_text(encoding="utf-8"))["files"]
    mmbench = files["mmbench_dev_20230712/llava-v1.5-13b.xlsx"]["vlmevalkit"]["own"]["circular"]
    mme = files["mme: llava15_13b/MME_answers"]["lmms_eval"]["own"]
    pope = files["pope e3e39262: llava15_13b/POPE_answers"]["vlmevalkit"]["own"]
    chartqa = files["chartqa/qwen2.5-vl-7b.json"]["cambrian"]["chartqa"]
    assert mmbench == pytest.approx(0.677, abs=5e-4)
    assert (mme["mme_perception_score"], mme["mme_cognition_score"]) == (1531.3187, 295.3571)
    f1 = [pope[f"{category} F1"] for category in ("random", "popular", "adversarial")]
    assert f1 == pytest.approx([87.1, 86.2, 84.5], abs=0.05)
    assert chartqa["right"] / chartqa["rows"] == pytest.approx(0.8784)
