"""ChartQA: three published forms, the toolkits' prompts and verdicts, and Qwen2.5-VL-7B's published scores."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.families import chartqa
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows
from tests.eval.benchmarks.published.table import image


def test_both_forms(tmp_path: Path) -> None:
    hub = chartqa.read(published_rows.write_tables("chartqa", tmp_path))
    tsv = chartqa.read(published_rows.write_tsv("chartqa", tmp_path, "ChartQA_TEST.tsv"))
    assert [hub[at] for at in range(4)] == [tsv[at] for at in range(4)]
    assert [hub[at].category for at in range(4)] == ["human"] * 2 + ["augmented"] * 2
    assert [hub[at].answers for at in range(4)] == [("14",), ("12.5%",), ("2,018",), ("Yes",)]


def test_the_form_of_huggingfacem4(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "query": datasets.Value("string"),
            "label": datasets.List(datasets.Value("string")),
            "human_or_machine": datasets.ClassLabel(names=["human", "machine"]),
            "image": datasets.Image(),
        }
    )
    row = {"query": "How many?", "label": ["14"], "human_or_machine": 1, "image": image(1)}
    datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    item = chartqa.read(tmp_path)[0]
    assert (item.question, item.answers, item.category, len(item.images)) == ("How many?", ("14",), "augmented", 1)


def test_another_kind_is_named(tmp_path: Path) -> None:
    rows = [published_rows.TSV["chartqa"][0] | {"split": "val"}]
    with pytest.raises(
        UserError, match="ChartQA: row 'a.tsv:2.*': column 'split' is 'val', not one of human, human_test"
    ):
        chartqa.read(published_rows.write_tsv("", tmp_path, "a.tsv", rows))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("chartqa", tmp_path)
    golden_files.check_prompts("chartqa", toolkit, chartqa.read(path))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    count, found = golden_files.differences("chartqa", toolkit, chartqa.BENCHMARKS["chartqa"].variants[toolkit].scorer)
    assert count == 2000 and found == {}


@pytest.mark.parametrize(
    ("toolkit", "scores"),
    [
        ("lmms-eval", "80.72 94.96 87.84"),
        ("vlmevalkit", "80.72 94.96 87.84"),
        ("cambrian", "80.72 94.96 87.84"),
        ("ours", "80.80 94.96 87.88"),  # "1,234" is a number
    ],
)
def test_scores_of_qwen_are_those_published(shared_data: Path, toolkit: str, scores: str) -> None:
    with gzip.open(shared_data / "eval_outputs_more" / "chartqa" / "qwen2.5-vl-7b.json.gz", "rt") as file:
        listed = json.load(file)
    rows = [
        {"question_id": str(at), "answer": row["prediction"], "gt_answer": row["answer"]}
        | {"category": chartqa.KINDS[row["split"]]}
        for at, row in enumerate(listed)
    ]
    found = score_rows("chartqa", rows, Rules(toolkit))
    shares = (found.by_category["human"], found.by_category["augmented"], found.value)
    assert " ".join(f"{100 * share.value:.2f}" for share in shares) == scores
    assert found.value.n == 2500
