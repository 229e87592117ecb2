"""MME-RealWorld: three published forms, and the toolkits' prompts and verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.families import mme_realworld
from pivot_jax.eval.score import score_rows
from tests.eval.benchmarks import golden_files, published_rows

VARIANTS = mme_realworld.BENCHMARKS["mme-realworld"].variants


def test_all_forms(tmp_path: Path) -> None:
    hub = mme_realworld.read(published_rows.write_tables("mme_realworld", tmp_path))
    tsv = mme_realworld.read(published_rows.write_tsv("mme_realworld", tmp_path, "MME-RealWorld.tsv"))
    listed = [
        {name: cell for name, cell in row.items() if name not in "ABCDE"}
        | {"multi-choice options": repr(published_rows.ROWS["mme_realworld"][at]["multi-choice options"])}
        for at, row in enumerate(published_rows.TSV["mme_realworld"])
    ]
    lite = mme_realworld.read(published_rows.write_tsv("", tmp_path, "lite.tsv", listed))
    for at in range(2):
        assert hub[at] == tsv[at] == lite[at]
    assert hub[0].choices == ("Red", "Blue, light", "Green", "Black", "This image doesn't feature the color.")
    assert (hub[0].category, hub[0].fields) == (
        "Perception/Remote Sensing", {"task": "Perception", "l2_category": "color"},
    )  # fmt: skip
    assert hub[0].unit != hub[1].unit


def test_options_that_are_not_lettered_are_named(tmp_path: Path) -> None:
    rows = [published_rows.TSV["mme_realworld"][0] | {"multi-choice options": "['(A) x', '(C) y']"}]
    with pytest.raises(UserError, match=r"MME-RealWorld: row 'a.tsv:2.* is \('\(A\) x', '\(C\) y'\), not '\(A\) …'"):
        mme_realworld.read(published_rows.write_tsv("", tmp_path, "a.tsv", rows))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit"])
def test_prompts_and_verdicts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("mme_realworld", tmp_path)
    golden_files.check_prompts("mme-realworld", toolkit, mme_realworld.read(path), "mme_realworld")
    assert golden_files.differences("mme_realworld", toolkit, VARIANTS[toolkit].scorer) == (1000, {})


def test_accuracies_of_the_tasks_and_the_mean_over_categories() -> None:
    def row(at: int, answer: str, category: str) -> dict[str, Any]:
        fields = {"task": category.partition("/")[0]}
        return {"question_id": str(at), "answer": answer, "gt_answer": "A", "choices": [*"vwxyz"], "unit": at,
                "category": category, "fields": fields}  # fmt: skip

    answers = [("A", "Perception/OCR"), ("A", "Perception/OCR"), ("B", "Perception/Monitoring"), ("B", "Reasoning/OCR")]
    found = score_rows("mme-realworld", [row(at, *one) for at, one in enumerate(answers)])
    assert (found.metric, found.value.value) == ("accuracy", 0.5)
    assert {name: one.value for name, one in found.secondary.items()} == {
        "accuracy/Perception": pytest.approx(2 / 3), "accuracy/Reasoning": 0.0, "category_mean": pytest.approx(1 / 3),
    }  # fmt: skip
    assert found.by_category["Perception/OCR"].value == 1.0
