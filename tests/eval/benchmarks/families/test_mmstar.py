"""MMStar: both published forms, the toolkits' prompts and verdicts, and its two averages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pivot_jax.eval.benchmarks.controls import RotatedOptions
from pivot_jax.eval.benchmarks.families import mmstar
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows


def test_both_forms(tmp_path: Path) -> None:
    hub = mmstar.read(published_rows.write_tables("mmstar", tmp_path))
    tsv = mmstar.read(published_rows.write_tsv("mmstar", tmp_path, "MMStar.tsv"))
    assert [replace(hub[at], text="") for at in range(2)] == [tsv[at] for at in range(2)]
    assert hub[0].choices == (
        "The suitcase is on the book.", "The suitcase is beneath the cat.", 'It\'s "off".', "None",
    )  # fmt: skip
    assert hub[1].question == "<image 1> How many?\nPlease answer yes or no." and hub[1].choices == ("1", "2")
    assert hub[0].fields == {"l2_category": "single-instance reasoning"}


@pytest.mark.parametrize(
    ("text", "question", "choices"),
    [
        ("Which?\nOptions: A: x, y, B: A, C: C: z", "Which?", ("x, y", "A", "C: z")),
        ("Options: which? Options: A: 1,B: 2", "Options: which?", ("1", "2")),
        ("Which? A: 1, B: 2", "Which? A: 1, B: 2", ()),
        ("Which? Options: (A) 1", "Which?", ()),
    ],
)
def test_options_in_a_question(text: str, question: str, choices: tuple[str, ...]) -> None:
    assert mmstar.split_options(text) == (question, choices)


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_and_verdicts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("mmstar", tmp_path)
    golden_files.check_prompts("mmstar", toolkit, mmstar.read(path))
    scorer = mmstar.BENCHMARKS["mmstar"].variants[toolkit].scorer
    assert golden_files.differences("mmstar", toolkit, scorer) == (1200, {})


def test_a_prompt_has_the_options_as_they_are_rotated(tmp_path: Path) -> None:
    turned = RotatedOptions(mmstar.read(published_rows.write_tables("mmstar", tmp_path)))[1]
    prompt = mmstar.BENCHMARKS["mmstar"].variants["cambrian"].prompt(turned)
    assert 'Options: A: The suitcase is beneath the cat., B: It\'s "off"., C: None, D: The suitcase is on' in prompt
    assert turned.answers == ("D",)


def test_the_two_averages() -> None:
    def row(at: int, answer: str, category: str, l2_category: str) -> dict[str, Any]:
        fields = {"l2_category": l2_category}
        return {"question_id": str(at), "answer": answer, "gt_answer": "A", "category": category, "fields": fields}

    answers = [("A", "math", "numeric"), ("A", "math", "numeric"), ("A", "math", "numeric"), ("B", "math", "geometry")]
    rows = [row(at, *one) for at, one in enumerate([*answers, ("B", "logic", "code")])]
    found = score_rows("mmstar", rows, Rules(toolkit="lmms-eval"))
    assert (found.metric, found.value.value) == ("l2_mean", pytest.approx(1 / 3))
    assert {name: one.value for name, one in found.secondary.items()} == {
        "accuracy": pytest.approx(3 / 5), "l2_mean/math": 0.5, "l2_mean/logic": 0.0,
    }  # fmt: skip
    assert score_rows("mmstar", rows).metric == "accuracy"
