"""OCRBench: three published forms, the toolkits' prompts and verdicts, and points per type of the real questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pivot_jax.eval.benchmarks.families import ocrbench
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows


def test_both_forms(tmp_path: Path) -> None:
    hub = ocrbench.read(published_rows.write_tables("ocrbench", tmp_path))
    tsv = ocrbench.read(published_rows.write_tsv("ocrbench", tmp_path, "OCRBench.tsv"))
    assert [hub[at] for at in range(4)] == [tsv[at] for at in range(4)]
    assert hub[1].answers == ("(206) 555-1234", "2065551234") and hub[1].category == "Doc-oriented VQA"


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("ocrbench", tmp_path)
    golden_files.check_prompts("ocrbench", toolkit, ocrbench.read(path))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    scorer = ocrbench.BENCHMARKS["ocrbench"].variants[toolkit].scorer
    count, found = golden_files.differences("ocrbench", toolkit, scorer)
    assert count == 1200 and found == {}


def test_points_of_the_real_questions(shared_data: Path) -> None:
    """With the correct answers in sentences, all 1,000 points; formulas without blanks, but not in lower case."""
    folder = shared_data / "eval_outputs_more"
    types = json.loads((folder / "expected.json").read_text())["ocrbench/OCRBench.json"]["types"]
    items = ocrbench.read(folder / "ocrbench" / "OCRBench.json.gz")
    listed = [items[at] for at in range(len(items))]
    rows = [
        {"question_id": item.id, "gt_answer": list(item.answers), "category": item.category}
        | {"answer": f"It is {item.answers[-1].replace(' ', '') if 'Hand' in item.category else item.answers[-1]}!"}
        for item in listed
    ]
    for toolkit in ("ours", "lmms-eval", "vlmevalkit"):
        found = score_rows("ocrbench", rows, Rules(toolkit))
        points = {name: one.value for name, one in found.secondary.items()}
        assert (found.metric, found.value.value, found.percent) == ("points", 1000, False)
        assert points.pop("text_recognition") == 300 and points == types
    assert score_rows("ocrbench", rows, Rules("cambrian")).value.value == 1
    lower = [row | {"answer": row["answer"].lower()} for row in rows]
    points = score_rows("ocrbench", lower, Rules("vlmevalkit")).secondary
    assert points["Doc-oriented VQA"].value == 200
    assert 0 < points["Handwritten Mathematical Expression Recognition"].value < 100


def test_full_width_letters_are_read_by_lmms_eval_only() -> None:
    rows = [
        {"question_id": "1", "answer": "ＲＭ 9.00", "gt_answer": ["RM 9.00"], "category": "Key Information Extraction"}
    ]
    assert score_rows("ocrbench", rows, Rules("lmms-eval")).value.value == 1
    assert score_rows("ocrbench", rows, Rules("vlmevalkit")).value.value == 0
