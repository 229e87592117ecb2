"""Caption benchmarks: published rows as questions, the toolkits' own prompts, and a whole evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval import predictions
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.families import captions
from pivot_jax.eval.run import RunOptions, evaluate
from pivot_jax.eval.score import Rules, score_file
from tests.eval.benchmarks import published_rows
from tests.tiny import scripted

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("toolkit", ["lmms_eval", "vlmevalkit"])
@pytest.mark.parametrize("name", ["coco_captions", "detailcaps"])
def test_prompts_are_those_of_the_toolkits(tmp_path, toolkit, name):
    golden = json.loads((GOLDEN / f"prompts_{toolkit}.json").read_text())["benchmarks"]
    benchmark = suite.find(name.replace("_", "-"))
    assert (name in golden) == (toolkit.replace("_", "-") in benchmark.variants)
    if name in golden:
        items, variant = benchmark.read(published_rows.write_tables(name, tmp_path)), benchmark.variants[
            toolkit.replace("_", "-")
        ]  # fmt: skip
        assert len(items) == len(golden[name])
        for position, one in golden[name].items():
            assert variant.prompt(items[int(position)]) == one["prompt"]
            assert list(variant.stop) == one["stop"]
            assert one["max_new_tokens"] in (None, variant.max_new_tokens)


@pytest.mark.parametrize("form", ["hub", "tsv"])
def test_coco_reads_both_forms(tmp_path, form):
    write = published_rows.write_tables if form == "hub" else published_rows.write_tsv
    items = captions.read_coco(write("coco_captions", tmp_path))
    rows = published_rows.ROWS["coco_captions"]
    assert [item.answers for item in (items[0], items[1])] == [tuple(row["answer"]) for row in rows]
    assert [item.id for item in (items[0], items[1])] == (
        [row["question_id"] for row in rows] if form == "hub" else ["0", "1"]
    )
    assert items[0].images == (rows[0]["image"]["bytes"],)


def test_detailcaps_reads_its_rows(tmp_path):
    items = captions.read_detailcaps(published_rows.write_tables("detailcaps", tmp_path))
    row = published_rows.ROWS["detailcaps"][1]
    assert items[1].id == row["image"] and items[1].images == (row["binary"],)
    assert items[1].answers == tuple(row[column] for column in captions.REFERENCES)
    assert items[1].fields == {"source": "COCO"}
    with pytest.raises(UserError, match="DetailCaps: .*VLMEvalKit's TSV, in which it is not published"):
        captions.read_detailcaps(published_rows.write_tsv("coco_captions", tmp_path))


@pytest.mark.parametrize(("cell", "shown"), [("A dog.", "'A dog.'"), ("[1, 2]", "1, 2"), ("[]", "")])
def test_references_that_are_none(tmp_path, cell, shown):
    rows = [row | {"answer": cell} for row in published_rows.TSV["coco_captions"]]
    with pytest.raises(
        UserError, match=rf"COCO captions: .*COCO_VAL.tsv:2.*column 'answer' is .*{shown}.*, not a list"
    ):
        captions.read_coco(published_rows.write_tsv("coco_captions", tmp_path, "COCO_VAL.tsv", rows))


def test_an_evaluation_from_files_to_score(tmp_path):
    """Without the tokenizer, which takes a Java program; its figures are in test_caption_metrics."""
    pytest.importorskip("pycocoevalcap")
    data = published_rows.write_tables("coco_captions", tmp_path)
    best = scripted.Scripted(lambda example: example.extra["answer"][0])
    found = evaluate("coco-captions", data, best, tmp_path / "best.jsonl", RunOptions(toolkit="vlmevalkit", show=False))
    assert (found.metric, found.scorer, found.total) == ("cider_without_tokenizer", "caption", 2)
    assert found.secondary["bleu_4_without_tokenizer"].value == pytest.approx(1.0)
    assert found.compliance == 1 and found.unread == 0
    silent = scripted.Scripted(lambda example: "")
    evaluate("coco-captions", data, silent, tmp_path / "none.jsonl", RunOptions(toolkit="vlmevalkit", show=False))
    nothing = score_file(tmp_path / "none.jsonl", rules=Rules())
    assert nothing.value.value == 0 and nothing.unread == 1 and nothing.toolkit == "vlmevalkit"
    assert len(predictions.read(tmp_path / "none.jsonl")) == 2
