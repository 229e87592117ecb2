"""Our averages over parts of a benchmark against the toolkits' own (golden/part_averages.json)."""

from __future__ import annotations

from typing import Any

import pytest

from pivot_jax.eval.score import Rules, Score, score_rows
from tests.eval.benchmarks import golden_files

GOLDEN = "part_averages"
FIELDS = ("type", "source", "l2_category", "l2-category")


def _score(benchmark: str, golden: str, toolkit: str, **chosen: str) -> Score:
    """Of the golden rows with these values, each answered as its verdict says."""
    rows = []
    for at, row in enumerate(golden_files.read(GOLDEN)["rows"][golden]):
        if any(row[name] != value for name, value in chosen.items()):
            continue
        category = row.get("category") or row.get("task") or ""
        fields = {name.replace("-", "_"): row[name] for name in FIELDS if name in row}
        fields["task"] = category.split("/")[0]
        answer: dict[str, Any] = {"answer": "A" if row["right"] else "B", "gt_answer": "A", "choices": ["x", "y"]}
        index = row.get("index", at)
        unit = index // 2 if golden == "mmvp" else index % 10**6
        rows.append(answer | {"question_id": str(index), "category": category, "fields": fields, "unit": unit})
    return score_rows(benchmark, rows, Rules(toolkit=toolkit))


def _numbers(toolkit: str, golden: str) -> dict[str, float]:
    return golden_files.read(GOLDEN)["numbers"][toolkit][golden]


def test_mmstar() -> None:
    ours, theirs = _score("mmstar", "mmstar", "lmms-eval"), _numbers("lmms_eval", "mmstar")
    found = {name.removeprefix("l2_mean/"): one.value for name, one in ours.secondary.items() if "/" in name}
    assert found | {"average": ours.value.value} == pytest.approx(theirs)
    ours, theirs = _score("mmstar", "mmstar", "vlmevalkit"), _numbers("vlmevalkit", "mmstar")
    assert ours.value.value == pytest.approx(theirs["Overall"])
    assert len(ours.by_category) == 3
    for category, one in ours.by_category.items():
        assert one.value == pytest.approx(theirs[category])


def test_cv_bench() -> None:
    theirs = _numbers("lmms_eval", "cv_bench")
    assert _score("cv-bench", "cv_bench", "lmms-eval").value.value == pytest.approx(theirs["accuracy"])
    assert _score("cv-bench", "cv_bench", "ours").value.value == pytest.approx(theirs["formula"])
    for part, number in _numbers("vlmevalkit", "cv_bench").items():
        ours = _score(f"cv-bench-{part.lower()}", "cv_bench", "vlmevalkit", type=part)
        assert (ours.metric, ours.value.value) == (part, pytest.approx(number))


def test_mme_realworld() -> None:
    theirs = _numbers("vlmevalkit", "mme_realworld")
    ours = _score("mme-realworld", "mme_realworld", "vlmevalkit")
    found = {task: ours.secondary[f"accuracy/{task}"].value for task in ("Perception", "Reasoning")}
    assert found | {"accuracy": ours.value.value} == pytest.approx(theirs)
    assert ours.value.value == pytest.approx(_numbers("lmms_eval", "mme_realworld")["accuracy"])


def test_mmbench() -> None:
    ours, theirs = _score("mmbench", "mmbench", "vlmevalkit"), _numbers("vlmevalkit", "mmbench")
    found = {name: ours.secondary[name].value for name in theirs if name != "Overall"}
    assert found | {"Overall": ours.value.value} == pytest.approx(theirs) and len(found) == 5


@pytest.mark.parametrize(
    ("toolkit", "golden", "single", "pair"),
    [("lmms-eval", "lmms_eval", "accuracy", "pair_accuracy"), ("vlmevalkit", "vlmevalkit", "Average", "Overall")],
)
def test_mmvp(toolkit: str, golden: str, single: str, pair: str) -> None:
    ours, theirs = _score("mmvp", "mmvp", toolkit), _numbers(golden, "mmvp")
    assert (ours.value.value, ours.secondary["question_accuracy"].value) == pytest.approx(
        (theirs[pair], theirs[single])
    )
