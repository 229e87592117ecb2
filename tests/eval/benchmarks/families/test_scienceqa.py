"""ScienceQA: three forms, the toolkits' prompts and verdicts, and published scores of LLaVA-1.5-13B and GPT-3."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pivot_jax.data import sources
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.families import scienceqa
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows


def test_both_published_forms(tmp_path: Path) -> None:
    hub = scienceqa.read(published_rows.write_tables("scienceqa", tmp_path))
    tsv = scienceqa.read(published_rows.write_tsv("scienceqa", tmp_path, "ScienceQA_TEST.tsv"))
    assert (len(hub), len(tsv)) == (5, 4)  # the TSV has no question without an image
    for at in range(4):
        ours, theirs = hub[at], tsv[at]
        assert (ours.question, ours.images, ours.choices, ours.answers, ours.hint) == (
            theirs.question, theirs.images, theirs.choices, theirs.answers, theirs.hint,
        )  # fmt: skip
    assert [hub[at].answers[0] for at in range(5)] == [*"ABECB"]
    assert [hub[at].fields["image"] for at in range(5)] == [True] * 4 + [False]


def test_the_local_form_is_asked_as_the_data_source_asks_it(shared_data: Path) -> None:
    """What trains a model and what is asked of it are the same words."""
    folder = shared_data / "scienceqa_test_img"
    source = sources.read({"format": "scienceqa", "path": str(folder / "data.jsonl")})
    asked = suite.examples("scienceqa", folder)
    assert len(asked) == len(source) == 1000
    for at in range(0, len(source), 9):
        one, other = asked[at], source[at]
        assert one.messages[0].content == other.messages[0].content and one.id == other.id
        assert (one.images, one.extra["answer"], one.extra["choices"]) == (
            other.images, other.messages[1].content, other.extra["choices"],
        )  # fmt: skip


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("scienceqa", tmp_path)
    golden_files.check_prompts("scienceqa", toolkit, scienceqa.read(path))


def _llava(folder: Path) -> list[dict[str, Any]]:
    with gzip.open(folder / "eval_outputs" / "llava15_13b" / "llava-v1.5-13b_output.jsonl.gz", "rt") as file:
        content = json.load(file)
    return content["correct"] + content["incorrect"]


def test_llava_was_asked_with_these_prompts(shared_data: Path) -> None:
    """The prompts in its file of answers."""
    asked = suite.examples("scienceqa", shared_data / "scienceqa_test_img", "llava")
    recorded = {row["question_id"]: row["question"] for row in _llava(shared_data)}
    assert len(asked) == 1000
    assert {one.id: one.messages[0].content for one in asked} == {one.id: recorded[one.id] for one in asked}


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian", "llava"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    scorer = scienceqa.BENCHMARKS["scienceqa"].variants[toolkit].scorer
    assert golden_files.differences("scienceqa", toolkit, scorer) == (2000, {})


def test_cambrian_reports_the_questions_with_an_image() -> None:
    rows = [
        {"question_id": str(at), "answer": answer, "gt_answer": "A", "choices": ["x", "y"], "fields": {"image": seen}}
        for at, (answer, seen) in enumerate([("A", True), ("B", True), ("A", False), ("A", False)])
    ]
    found = score_rows("scienceqa", rows, Rules(toolkit="cambrian"))
    assert (found.metric, found.value.value, found.secondary["accuracy"].value) == ("image_accuracy", 0.5, 0.75)
    found = score_rows("scienceqa", rows)
    assert (found.metric, found.value.value, found.secondary["image_accuracy"].value) == ("accuracy", 0.75, 0.5)


@pytest.mark.parametrize(("model", "everything", "images"), [("llava-v1.5-13b", 74.39, 71.64), ("gpt-3", 75.17, 67.43)])
def test_published_scores(shared_data: Path, model: str, everything: float, images: float) -> None:
    """GPT-3's file holds option indices, 243 of them guessed where the output was empty."""
    rows = {
        row["question_id"]: {
            "question_id": row["question_id"],
            "answer": row["pred"],
            "gt_answer": row["ground_truth"],
            "choices": [*"vwxyz"],
            "fields": {"image": row["is_multimodal"]},
        }
        for row in _llava(shared_data)
    }
    if model == "gpt-3":
        name = "final_test_QCM-ALE_2_seed_3.json.gz"
        with gzip.open(shared_data / "eval_outputs_more" / "scienceqa_gpt3" / name, "rt") as file:
            for own, index in json.load(file)["results"].items():
                rows[own]["answer"] = "ABCDE"[index]
    found = score_rows("scienceqa", list(rows.values()), Rules(toolkit="llava"))
    assert (len(rows), round(100 * found.value.value, 2)) == (4241, everything)
    assert round(100 * found.secondary["image_accuracy"].value, 2) == images
