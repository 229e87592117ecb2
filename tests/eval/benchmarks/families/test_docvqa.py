"""DocVQA: both published forms, the toolkits' prompts and verdicts, and ANLS on real answers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pivot_jax.eval.benchmarks.families import docvqa
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows


def test_both_forms(tmp_path: Path) -> None:
    hub = docvqa.read(published_rows.write_tables("docvqa", tmp_path))
    tsv = docvqa.read(published_rows.write_tsv("docvqa", tmp_path, "DocVQA_VAL.tsv"))
    for at in range(2):
        assert (hub[at].question, hub[at].answers, hub[at].images) == (
            tsv[at].question,
            tsv[at].answers,
            tsv[at].images,
        )
    assert (hub[0].id, hub[0].unit, hub[1].answers) == (
        "49153", "pybv0228_81", ("R. J. Reynolds", "Dr.  R.J. Reynolds "),
    )  # fmt: skip


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("docvqa", tmp_path)
    golden_files.check_prompts("docvqa", toolkit, docvqa.read(path))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    count, found = golden_files.differences("docvqa", toolkit, docvqa.BENCHMARKS["docvqa"].variants[toolkit].scorer)
    assert count == 1200 and found == {}


def test_blanks_count_in_the_toolkits_lengths() -> None:
    rows = [{"question_id": "1", "answer": "ab cd  ", "gt_answer": ["ab ce"], "unit": "1"}]
    assert score_rows("docvqa", rows).value.value == pytest.approx(1 - 1 / 5)
    assert score_rows("docvqa", rows, Rules("lmms-eval")).value.value == pytest.approx(1 - 1 / 7)


def test_real_answers(shared_data: Path) -> None:
    """LLaVA's sentences score next to nothing by ANLS, and the published share by the words that they contain."""
    folder = shared_data / "eval_outputs" / "multimodalocr_llava"
    with gzip.open(folder / "docVQA.json.gz", "rt") as file:
        listed = json.load(file)
    rows = [
        {"question_id": str(at), "answer": row["answer"], "gt_answer": row["gt_answers"], "unit": row["image_path"]}
        for at, row in enumerate(listed)
    ]
    assert len(rows) == docvqa.BENCHMARKS["docvqa"].questions
    words = json.loads((folder / "result.json").read_text())["docVQA"]
    assert score_rows("docvqa", rows, Rules(scorer="contains_words")).value.value == pytest.approx(words, abs=1e-12)
    ours, theirs = score_rows("docvqa", rows), score_rows("docvqa", rows, Rules("vlmevalkit"))
    assert 0 < theirs.value.value <= ours.value.value < 0.02
    assert ours.value.n == len({row["image_path"] for row in listed})
