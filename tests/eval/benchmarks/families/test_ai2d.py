"""AI2D: both published forms, and the toolkits' prompts and verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.families import ai2d
from tests.eval.benchmarks import golden_files, published_rows


def test_both_forms(tmp_path: Path) -> None:
    hub = ai2d.read(published_rows.write_tables("ai2d", tmp_path))
    tsv = ai2d.read(published_rows.write_tsv("ai2d", tmp_path, "AI2D_TEST.tsv"))
    assert [hub[at] for at in range(3)] == [tsv[at] for at in range(3)]
    assert [hub[at].answers[0] for at in range(3)] == [*"BDA"]
    assert len({hub[at].unit for at in range(3)}) == 3  # a unit is an image


def test_real_rows(shared_data: Path) -> None:
    """Ten questions; the source has their answers as letters."""
    folder = shared_data / "benchmark_samples" / "ai2d"
    lines, parquet = ai2d.read(folder / "rows.jsonl"), ai2d.read(folder / "ai2d_sample.parquet")
    source = [json.loads(line) for line in (folder / "rows_source.jsonl").read_text().splitlines()]
    assert len(lines) == len(parquet) == len(source) == 10
    for at, row in enumerate(source):
        assert lines[at].answers == parquet[at].answers == (row["answer"],)
        assert list(lines[at].choices) == row["options"] and Path(lines[at].images[0]).is_file()


def test_questions_about_one_diagram_are_one_unit(tmp_path: Path) -> None:
    rows = [dict(row) for row in published_rows.TSV["ai2d"]]
    rows[1]["image"] = "0"
    items = ai2d.read(published_rows.write_tsv("ai2d", tmp_path, rows=rows))
    assert items[0].unit == items[1].unit != items[2].unit


def test_an_answer_that_is_no_index_is_named(tmp_path: Path) -> None:
    rows = [published_rows.TSV["ai2d"][0] | {"answer": "2"}]
    with pytest.raises(UserError, match="AI2D: row 'a.tsv:2, index 0': column 'answer' is '2', which is none of the"):
        ai2d.read(published_rows.write_tsv("", tmp_path, "a.tsv", rows))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_and_verdicts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("ai2d", tmp_path)
    golden_files.check_prompts("ai2d", toolkit, ai2d.read(path))
    scorer = ai2d.BENCHMARKS["ai2d"].variants[toolkit].scorer
    assert golden_files.differences("ai2d", toolkit, scorer) == (1200, {})
