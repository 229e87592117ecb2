"""TextVQA: both published forms, prompts with and without OCR words, and the toolkits' verdicts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.base import Item
from pivot_jax.eval.benchmarks.families import textvqa
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows


def test_both_forms(tmp_path: Path) -> None:
    hub = textvqa.read(published_rows.write_tables("textvqa", tmp_path))
    tsv = textvqa.read(published_rows.write_tsv("textvqa", tmp_path, "TextVQA_VAL.tsv"))
    for at in range(3):
        assert (hub[at].question, hub[at].answers, hub[at].images) == (
            tsv[at].question,
            tsv[at].answers,
            tsv[at].images,
        )
        assert len(hub[at].answers) == 10
    assert (hub[0].id, hub[0].unit, hub[0].fields) == (
        "34602", "003a8ae2ef43b900", {"ocr_tokens": ["DAKOTA", "DIGITAL"]},
    )  # fmt: skip


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("textvqa", tmp_path)
    golden_files.check_prompts("textvqa", toolkit, textvqa.read(path))


@pytest.mark.parametrize("toolkit", ["cambrian", "llava"])
def test_a_prompt_with_ocr_words_needs_them(tmp_path: Path, toolkit: str) -> None:
    item = textvqa.read(published_rows.write_tsv("textvqa", tmp_path))[0]
    with pytest.raises(
        UserError, match="row '0': this toolkit's prompt has OCR words, which the TSV lacks; read lmms-lab"
    ):
        textvqa.BENCHMARKS["textvqa"].variants[toolkit].prompt(item)


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian", "llava"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    scorer = textvqa.BENCHMARKS["textvqa"].variants[toolkit].scorer
    count, found = golden_files.differences("textvqa", toolkit, scorer)
    assert count == 1200 and found == {}


def test_llava_s_recorded_prompts(shared_data: Path) -> None:
    """All 5,000 prompts, some without OCR words, from their question in lower case and their words."""
    prompt = textvqa.BENCHMARKS["textvqa"].variants["llava"].prompt
    with gzip.open(shared_data / "eval_outputs" / "llava15_13b" / "TextVQA_answers.jsonl.gz", "rt") as file:
        recorded = [json.loads(line)["prompt"] for line in file]
    assert len(recorded) == 5000
    for text in recorded:
        question, words, _ = text.split("\n")
        tokens = words.removeprefix("Reference OCR token: ").split(", ")
        item = Item("", question.lower(), ("none",), fields={"ocr_tokens": tokens})
        assert prompt(item) == f"<image>\n{text}"


def test_score_counts_agreeing_annotators() -> None:
    golds = ["dakota"] * 6 + ["dakota digital"] * 3 + ["clos culombu"]
    rows = [
        {"question_id": "1", "answer": "Dakota Digital.", "gt_answer": golds, "unit": "a"},
        {"question_id": "2", "answer": "the DAKOTA", "gt_answer": golds, "unit": "a"},
    ]
    for toolkit in textvqa.BENCHMARKS["textvqa"].variants:
        found = score_rows("textvqa", rows, Rules(toolkit))
        assert list(found.scores) == pytest.approx([(3 * 2 / 3 + 7) / 10, 1])
