"""POPE: both configurations and the TSV, the toolkits' prompts and verdicts, and LLaVA-1.5-13B's published F1."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.base import Item
from pivot_jax.eval.benchmarks.families import pope
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows
from tests.eval.benchmarks.published import yes_no
from tests.eval.benchmarks.published.table import Table

COLUMNS = yes_no.TABLES["pope"][0].columns


def test_both_configurations_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [
        Table(f"Full/{kind}-00000-of-00001.parquet", COLUMNS, [row for row in yes_no.POPE if row["category"] == kind])
        for kind in pope.KINDS
    ]
    monkeypatch.setitem(published_rows.TABLES, "pope", [*published_rows.TABLES["pope"], *tables])
    folder = published_rows.write_tables("pope", tmp_path)
    default, full = pope.read(folder), pope.read(folder / "Full")
    for items in (default, full):
        assert [items[i].category for i in range(len(items))] == ["adversarial"] * 2 + ["popular", "random"]
        assert [items[i].id for i in range(4)] == ["0", "1", "2", "3"]
    assert default[0].unit == default[1].unit == "COCO_val2014_000000310560" != default[2].unit
    assert (default[1].answers, len(default[1].images)) == (("no",), 1)


def test_a_question_of_several_kinds_counts_in_each(tmp_path: Path) -> None:
    items = pope.read(published_rows.write_tsv("pope", tmp_path, "POPE.tsv"))
    assert items[0].category == "adversarial,random" and items[0].answers == ("Yes",)
    assert items[0].unit == items[1].unit == "0" and items[0].images == items[1].images
    rows = [
        {"question_id": str(at), "answer": answer, "gt_answer": gold, "category": category, "unit": at}
        for at, (answer, gold, category) in enumerate(
            [("Yes", "Yes", "adversarial,popular"), ("No", "No", "popular"), ("yes.", "No", "adversarial")]
        )
    ]
    found = score_rows("pope", rows, Rules("vlmevalkit")).intervals()
    assert found["accuracy"].value == 3 / 4  # the first question is two of four
    assert found["f1"].value == 2 * 2 / (3 + 2) and found["f1/popular"].value == 1.0
    assert found["adversarial"].value == 1 / 2 and found["popular"].value == 1.0


def test_lmms_eval_leaves_unread_answers_out_of_recall() -> None:
    rows = [
        {"question_id": str(at), "answer": answer, "gt_answer": "yes", "category": "random", "unit": at}
        for at, answer in enumerate(["yes", "Yes.", "no"])
    ]
    theirs, plain = (score_rows("pope", rows, Rules(name)) for name in ("lmms-eval", "cambrian"))
    assert theirs.secondary["recall"].value == 1 / 2 and theirs.value.value == 1 / 3  # "Yes." is not read
    assert plain.secondary["recall"].value == 2 / 3 == plain.value.value


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("pope", tmp_path)
    golden_files.check_prompts("pope", toolkit, pope.read(path))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian", "llava"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    count, found = golden_files.differences("pope", toolkit, pope.BENCHMARKS["pope"].variants[toolkit].scorer)
    assert count == 400 and found == {}


def test_another_split_is_named(tmp_path: Path) -> None:
    published_rows.write_tables("pope", tmp_path)
    (tmp_path / "pope" / "data").rename(tmp_path / "Full")
    with pytest.raises(UserError, match=r"no split 'adversarial' \(there are: test\)"):
        pope.read(tmp_path / "Full")


def _rows(folder: Path) -> list[dict[str, Any]]:
    """LLaVA's answers with the golds of their version of POPE, joined by category and order within it."""
    golds = {}
    for kind in pope.KINDS:
        with gzip.open(folder / "eval_outputs_more" / "pope" / f"coco_pope_{kind}_e3e39262.json.gz", "rt") as file:
            golds[kind] = [json.loads(line) for line in file]
    answers = folder / "eval_outputs" / "llava15_13b"
    with gzip.open(answers / "POPE_questions.jsonl.gz", "rt") as file:
        kinds = {row["question_id"]: row["category"] for row in map(json.loads, file)}
    with gzip.open(answers / "POPE_answers.jsonl.gz", "rt") as file:
        found = [json.loads(line) for line in file]
    joined = []
    prompt = pope.BENCHMARKS["pope"].variants["llava"].prompt
    for kind in pope.KINDS:
        own = [row for row in found if kinds[row["question_id"]] == kind]
        for answer, gold in zip(own, golds[kind], strict=True):
            assert prompt(Item("", gold["text"], ("none",))) == f"<image>\n{answer['prompt']}"
            joined.append(
                {"question_id": answer["question_id"], "answer": answer["text"], "gt_answer": gold["label"]}
                | {"category": kind, "unit": gold["image"]}
            )
    return joined


@pytest.mark.parametrize("toolkit", ["llava", "ours", "vlmevalkit", "cambrian", "lmms-eval"])
def test_f1_of_llava_is_that_published(shared_data: Path, toolkit: str) -> None:
    expected = json.loads((shared_data / "eval_outputs_more" / "expected.json").read_text())["pope"]
    expected = expected["golds e3e39262 + eval_outputs/llava15_13b/POPE_answers (join by category and order)"]
    rows = _rows(shared_data)
    found = score_rows("pope", rows, Rules(toolkit))
    numbers = {name: round(one.value, 6) for name, one in found.intervals().items()}
    assert (len(rows), found.value.n) == (8910, 500)
    counts = {"random": 2910, "popular": 3000, "adversarial": 3000}
    assert numbers["mean_f1"] == expected["mean f1"] and numbers["f1"] == expected["pooled f1"]
    for kind, count in counts.items():
        own = expected[f"{kind} ({count})"]
        assert (numbers[f"f1/{kind}"], numbers[kind]) == (own["f1"], own["accuracy"])
        alone = score_rows("pope", [row for row in rows if row["category"] == kind], Rules(toolkit)).intervals()
        names = ("accuracy", "precision", "recall", "f1", "yes_share")
        assert {name: round(alone[name].value, 6) for name in names} == {name: own[name] for name in names}
    assert [f"{numbers[f'f1/{kind}']:.4f}" for kind in counts] == ["0.8714", "0.8625", "0.8446"]
    headline = {"llava": "mean_f1", "ours": "mean_f1", "vlmevalkit": "f1"}
    assert found.metric == headline.get(toolkit, "accuracy")
