"""HallusionBench: both splits and the TSV, groups of the 1,129 real questions, and the toolkits' rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.base import Items
from pivot_jax.eval.benchmarks.families import hallusionbench
from pivot_jax.eval.score import Rules, Score, score_rows
from tests.eval.benchmarks import golden_files, published_rows

JSON = "eval_outputs_more/hallusionbench/HallusionBench.json.gz"


def test_both_splits_and_the_tsv(tmp_path: Path) -> None:
    folder = published_rows.write_tables("hallusionbench", tmp_path)
    hub, every = hallusionbench.read(folder), hallusionbench.read_all(folder)
    tsv = hallusionbench.read(published_rows.write_tsv("hallusionbench", tmp_path, "HallusionBench.tsv"))
    assert (len(hub), len(every), len(tsv)) == (3, 4, 3)
    assert (every[3].images, every[3].category, every[3].answers) == ((), "VS", ("Yes",))
    assert [hub[i].answers[0] for i in range(3)] == [tsv[i].answers[0] for i in range(3)] == ["Yes", "No", "No"]
    for at in range(3):
        assert tsv[at].images == hub[at].images != ()
        assert (tsv[at].unit, tsv[at].category) == (hub[at].unit, hub[at].category)
        names = ("subcategory", "set_id", "figure_id", "question_id")
        assert [tsv[at].fields[name] for name in names] == [hub[at].fields[name] for name in names]
    assert tsv[0].id == "VD_illusion_x_0_0_0" and hub[0].unit == "illusion_0"


def test_an_index_or_an_answer_of_another_form_is_named(tmp_path: Path) -> None:
    row = published_rows.TSV["hallusionbench"][0]
    with pytest.raises(UserError, match=r"row '.*a.tsv:2.*': column 'index' is '7', not category_subcat.*get the"):
        hallusionbench.read(published_rows.write_tsv("", tmp_path, "a.tsv", [row | {"index": "7"}]))
    with pytest.raises(UserError, match="the correct answer is 'perhaps'; write yes or no"):
        hallusionbench.read(published_rows.write_tsv("", tmp_path, "b.tsv", [row | {"answer": "perhaps"}]))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("hallusionbench", tmp_path)
    golden_files.check_prompts("hallusionbench", toolkit, hallusionbench.read(path))


def test_verdicts_are_vlmevalkit_s_own() -> None:
    count, found = golden_files.differences("hallusionbench", "vlmevalkit", "yes_no_words")
    assert count == 400 and found == {}


def _rows(items: Items) -> list[dict[str, Any]]:
    """The questions with their correct answers as answers."""
    listed = [items[at] for at in range(len(items))]
    return [
        {"question_id": item.id, "answer": item.answers[0], "gt_answer": item.answers[0], "category": item.category}
        | {"unit": item.unit, "fields": dict(item.fields), "with image": bool(item.images)}
        for item in listed
    ]


def _shares(found: Score) -> tuple[float, ...]:
    assert found.metric == "aAcc"
    return (found.value.value, found.secondary["fAcc"].value, found.secondary["qAcc"].value)


def test_figures_and_pairs_of_the_real_questions(shared_data: Path) -> None:
    """One wrong answer shows how many figures and pairs there are."""
    rows = _rows(hallusionbench.read_all(shared_data / JSON))
    assert len(rows) == 1129 and sum(row["with image"] for row in rows) == 951
    found = score_rows("hallusionbench_all", rows)
    assert _shares(found) == (1, 1, 1) and found.secondary["mean"].value == 1
    wrong = next(at for at, row in enumerate(rows) if row["with image"])
    rows[wrong]["answer"] = {"Yes": "No", "No": "Yes"}[rows[wrong]["answer"]]
    found = score_rows("hallusionbench_all", rows)
    assert _shares(found) == pytest.approx((1128 / 1129, 345 / 346, 454 / 455), abs=1e-12)
    assert found.secondary["mean"].value == pytest.approx((1128 / 1129 + 345 / 346 + 454 / 455) / 3)
    assert set(found.by_category) == {"VD", "VS"}
    drawn = [row for row in rows if row["with image"]]
    found = score_rows("hallusionbench", drawn, Rules("lmms-eval"))
    assert _shares(found) == pytest.approx((950 / 951, 345 / 346, 454 / 455), abs=1e-12)
    found = score_rows("hallusionbench", drawn, Rules("vlmevalkit"))
    assert _shares(found) == pytest.approx((950 / 951, 331 / 332, 428 / 429), abs=1e-12)


def test_a_question_without_its_figure_is_in_a_pair_but_in_no_figure(shared_data: Path) -> None:
    rows = _rows(hallusionbench.read_all(shared_data / JSON))
    row = next(row for row in rows if not row["with image"])
    row["answer"] = "I cannot tell."
    assert _shares(score_rows("hallusionbench_all", rows)) == pytest.approx((1128 / 1129, 1, 454 / 455), abs=1e-12)
