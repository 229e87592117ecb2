"""MMBench: both published forms, the toolkits' prompts and verdicts, and LLaVA-1.5-13B's published scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval import answer_files
from pivot_jax.eval.benchmarks.families import mmbench
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows

TOOLKITS = ["lmms-eval", "vlmevalkit", "cambrian", "llava"]


def test_both_forms(tmp_path: Path) -> None:
    hub = mmbench.read(published_rows.write_tables("mmbench", tmp_path))
    tsv = mmbench.read(published_rows.write_tsv("mmbench", tmp_path, "MMBench_DEV_EN.tsv"))
    assert len(hub) == 9 and [hub[at] for at in range(9)] == [tsv[at] for at in range(9)]
    assert [hub[at].unit for at in range(9)] == [241] * 2 + [252] * 4 + [3] * 3
    assert [hub[at].answers[0] for at in range(9)] == [*"AB", *"CBAD", *"BAC"]
    assert hub[0].hint == "" and hub[0].choices == ("the dog", "the cat")
    assert len({hub[at].fields["source_id"] for at in range(9)}) == 3


def test_real_rows(shared_data: Path) -> None:
    """19 questions that the authors show, with options of several lines."""
    folder = shared_data / "benchmark_samples" / "mmbench"
    lines, tsv = mmbench.read(folder / "rows.jsonl"), mmbench.read(folder / "MMBench_sample.tsv")
    assert len(lines) == len(tsv) == 19
    for ours, theirs in ((lines[at], tsv[at]) for at in range(19)):
        assert (ours.id, ours.question, ours.choices, ours.answers, ours.hint, ours.category) == (
            theirs.id, theirs.question, theirs.choices, theirs.answers, theirs.hint, theirs.category,
        )  # fmt: skip
        assert Path(ours.images[0]).stat().st_size and len(theirs.images[0]) > 1000
    assert "\n" in lines[0].choices[0] and {len(lines[at].choices) for at in range(19)} == {3, 4}


def test_the_english_configuration_is_taken_of_several(tmp_path: Path) -> None:
    folder = published_rows.write_tables("mmbench", tmp_path)
    (folder / "cn").mkdir()
    (folder / "cn" / "dev-00000-of-00001.parquet").write_bytes(
        (folder / "en" / "dev-00000-of-00001.parquet").read_bytes()
    )
    assert len(mmbench.read(folder)) == 9


def test_an_index_that_is_no_number_is_named(tmp_path: Path) -> None:
    rows = [published_rows.TSV["mmbench"][0] | {"index": "first"}]
    with pytest.raises(UserError, match=r"MMBench: row 'a.tsv:2, index first': column 'index' is 'first'; it is a num"):
        mmbench.read(published_rows.write_tsv("", tmp_path, "a.tsv", rows))


@pytest.mark.parametrize("toolkit", TOOLKITS)
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("mmbench", tmp_path)
    golden_files.check_prompts("mmbench", toolkit, mmbench.read(path))


def test_llava_ends_the_options_at_none(tmp_path: Path) -> None:
    rows = [published_rows.TSV["mmbench"][2] | {"C": "None", "answer": "A"}]
    item = mmbench.read(published_rows.write_tsv("", tmp_path, "a.tsv", rows))[0]
    variants = mmbench.BENCHMARKS["mmbench"].variants
    assert '\nB. the "old" way\nAnswer with' in variants["llava"].prompt(item)
    assert '\nB. the "old" way\nD. 50% off, maybe\nPlease' in variants["vlmevalkit"].prompt(item)
    assert "\nC. None\nD. 50% off" in variants["ours"].prompt(item)


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    scorer = mmbench.BENCHMARKS["mmbench"].variants[toolkit].scorer
    assert golden_files.differences("mmbench", toolkit, scorer) == (1600, {})


def _row(index: int, answer: str, **more: Any) -> dict[str, Any]:
    return {
        "question_id": str(index),
        "answer": answer,
        "gt_answer": "A",
        "choices": ["x", "y"],
        "unit": index % 10**6,
        **more,
    }


def test_a_question_counts_where_all_rotations_are_right() -> None:
    rows = [_row(1, "A"), _row(1000001, "A"), _row(2, "A"), _row(1000002, "B"), _row(3, "B"), _row(1000003, "A")]
    for row, category in zip(rows, ["count", "count", "count", "count", "ocr", "ocr"], strict=True):
        row["category"] = category
    found = score_rows("mmbench", rows)
    assert (found.metric, found.value.value, found.value.n) == ("circular_accuracy", 1 / 3, 3)
    assert {name: round(one.value, 6) for name, one in found.secondary.items()} == {
        "plain_accuracy": round(2 / 3, 6), "row_accuracy": round(4 / 6, 6), "count": 0.5, "ocr": 0.0,
    }  # fmt: skip


def test_cambrian_groups_by_category_question_image_and_source() -> None:
    rows = [_row(1, "A", fields={"source_id": "s"}), _row(2, "B", fields={"source_id": "s"}), _row(3, "A")]
    assert score_rows("mmbench", rows, Rules(toolkit="cambrian")).value.value == 1 / 2
    assert score_rows("mmbench", rows).value.value == 2 / 3


@pytest.mark.parametrize("toolkit", ["ours", *TOOLKITS])
def test_published_scores_of_llava(shared_data: Path, toolkit: str) -> None:
    pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    folder = shared_data / "eval_outputs_more"
    official = json.loads((folder / "expected.json").read_text())["mmbench_dev_20230712/llava-v1.5-13b.xlsx"]
    _, rows = answer_files.read(folder / "mmbench_dev_20230712" / "llava-v1.5-13b.xlsx")
    found = score_rows("mmbench", rows, Rules(toolkit=toolkit))
    assert (len(rows), found.value.n) == (official["rows"], official["questions"])
    assert round(100 * found.value.value, 2) == 67.69  # published as 67.7
    assert [round(100 * found.secondary[name].value, 2) for name in ("plain_accuracy", "row_accuracy")] == [
        75.43,
        76.45,
    ]
