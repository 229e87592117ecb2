"""MMVP: four forms, the toolkits' prompts and verdicts, and its two versions of four correct answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.families import mmvp
from tests.eval.benchmarks import golden_files, published_rows


def test_both_published_forms(tmp_path: Path) -> None:
    hub = mmvp.read(published_rows.write_tables("mmvp", tmp_path))
    tsv = mmvp.read(published_rows.write_tsv("mmvp", tmp_path, "MMVP.tsv"))  # its index starts at 0
    assert hub == tsv and [item.id for item in hub] == [*"1234"]
    assert [item.unit for item in hub] == [0, 0, 1, 1] and [item.answers[0] for item in hub] == [*"ABBA"]
    assert hub[2].choices == ("Yes", "No (it's on the desk)")


def test_pairs_go_by_the_index_and_not_by_the_order(tmp_path: Path) -> None:
    rows = [published_rows.TSV["mmvp"][at] for at in (0, 2, 3, 1)]
    items = mmvp.read(published_rows.write_tsv("mmvp", tmp_path, rows=rows))
    assert [(item.id, item.unit) for item in items] == [("1", 0), ("3", 1), ("4", 1), ("2", 0)]


@pytest.mark.parametrize(("index", "message"), [("a", "the index is 'a'; it is a number"), ("7", "lowest index is 7")])
def test_an_index_that_makes_no_pairs_is_named(tmp_path: Path, index: str, message: str) -> None:
    rows = [published_rows.TSV["mmvp"][0] | {"index": index}]
    with pytest.raises(UserError, match=f"MMVP: .*{message}"):
        mmvp.read(published_rows.write_tsv("", tmp_path, "a.tsv", rows))


def test_four_answers_are_swapped_in_the_files_and_right_in_the_corrected_benchmark(shared_data: Path) -> None:
    published = {item.id: item.answers[0] for item in mmvp.read(shared_data / "mmvp")}
    corrected = {item.id: item.answers[0] for item in mmvp.read_corrected(shared_data / "mmvp")}
    changed = {name for name in published if published[name] != corrected[name]}
    assert changed == {"99", "100", "279", "280"} and len(published) == 300
    assert [published[name] + corrected[name] for name in ("99", "100", "279", "280")] == ["AB", "BA", "AB", "BA"]


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_and_verdicts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("mmvp", tmp_path)
    golden_files.check_prompts("mmvp", toolkit, mmvp.read(path))
    scorer = mmvp.BENCHMARKS["mmvp"].variants[toolkit].scorer
    assert golden_files.differences("mmvp", toolkit, scorer) == (1200, {})
