"""NaturalBench: both published forms, the toolkits' prompts and verdicts, and the four accuracies."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.families import naturalbench
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows


def test_both_forms(tmp_path: Path) -> None:
    hub = naturalbench.read(published_rows.write_tables("naturalbench", tmp_path))
    tsv = naturalbench.read(published_rows.write_tsv("naturalbench", tmp_path, "NaturalBenchDataset.tsv"))
    assert len(hub) == len(tsv) == 8
    for at in range(8):
        assert hub[at] == tsv[at]
    assert [(hub[at].fields["question"], hub[at].fields["image"]) for at in range(4)] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert [hub[at].unit for at in range(8)] == [0] * 4 + [1] * 4
    assert hub[4].category == "multiple_choice" and hub[4].answers == ("A",)


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    row = published_rows.TSV["naturalbench"][0]
    with pytest.raises(UserError, match="column 'type' is 'open', not one of yes_no, multiple_choice; correct it"):
        naturalbench.read(published_rows.write_tsv("", tmp_path, "a.tsv", [row | {"type": "open"}]))
    with pytest.raises(UserError, match="the index is 'x'; it is a number, because four in a row make a group"):
        naturalbench.read(published_rows.write_tsv("", tmp_path, "b.tsv", [row | {"index": "x"}]))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("naturalbench", tmp_path)
    golden_files.check_prompts("naturalbench", toolkit, naturalbench.read(path))


@pytest.mark.parametrize("golden", ["naturalbench", "naturalbench_choice"])
@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit"])
def test_verdicts_are_the_toolkits_own(toolkit: str, golden: str) -> None:
    scorer = naturalbench.BENCHMARKS["naturalbench"].variants[toolkit].scorer
    count, found = golden_files.differences(golden, toolkit, scorer)
    assert count == 400 and found == {}


def _rows(right: list[str]) -> list[dict]:
    """A group a text, in which 1 is right: (question, image) 00, 01, 10, 11. Rows in another order."""
    rows = [
        {"question_id": str(4 * group + at), "answer": "Yes" if mark == "1" else "No", "gt_answer": "Yes"}
        | {"unit": group, "fields": {"question": at // 2, "image": at % 2}, "category": "yes_no"}
        for group, marks in enumerate(right)
        for at, mark in enumerate(marks)
    ]
    return sorted(rows, key=lambda row: row["question_id"][::-1])


@pytest.mark.parametrize("toolkit", ["ours", "lmms-eval", "vlmevalkit"])
def test_four_accuracies(toolkit: str) -> None:
    found = score_rows("naturalbench", _rows(["1111", "1100", "1010", "0111", "0000"]), Rules(toolkit))
    assert (found.metric, found.value.value, found.value.n) == ("group_accuracy", 1 / 5, 5)
    assert {name: one.value for name, one in found.secondary.items()} == pytest.approx(
        {"accuracy": 11 / 20, "question_accuracy": (2 + 1 + 0 + 1) / 10, "image_accuracy": (2 + 0 + 1 + 1) / 10}
    )


def test_a_sentence_with_an_article_is_read_as_a_letter_by_the_toolkits_only() -> None:
    rows = [
        {
            "question_id": "4",
            "answer": "The answer is a cup, B.",
            "gt_answer": "B",
            "unit": 1,
            "category": "multiple_choice",
        }
        | {"fields": {"question": 0, "image": 1}}
    ]
    assert score_rows("naturalbench", rows, Rules("lmms-eval")).secondary["accuracy"].value == 0
    rows[0]["answer"] = "The answer is B, a book."
    assert score_rows("naturalbench", rows).secondary["accuracy"].value == 1
