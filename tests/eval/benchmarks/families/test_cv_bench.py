"""CV-Bench: both published forms, its parts, the toolkits' prompts and verdicts, and three ways to average."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pivot_jax.eval.benchmarks.base import Item, Items
from pivot_jax.eval.benchmarks.families import cv_bench
from pivot_jax.eval.score import Rules, score_rows
from tests.eval.benchmarks import golden_files, published_rows

BENCHMARKS = cv_bench.BENCHMARKS


def _tsvs(folder: Path) -> Path:
    for part in ("2d", "3d"):
        published_rows.write_tsv(f"cv_bench_{part}", folder, f"CV-Bench-{part.upper()}.tsv")
    return folder


def _all(items: Items) -> list[Item]:
    return [items[at] for at in range(len(items))]


def test_the_parts_of_the_hubs_form(tmp_path: Path) -> None:
    folder = published_rows.write_tables("cv_bench", tmp_path)
    both = _all(BENCHMARKS["cv-bench"].read(folder))
    assert [item.id for item in both] == [*"01234"] and [item.answers[0] for item in both] == [*"CAFBA"]
    assert _all(BENCHMARKS["cv-bench-2d"].read(folder)) == both[:3]
    assert _all(BENCHMARKS["cv-bench-3d"].read(folder)) == both[3:]
    assert both[0].fields == {"type": "2D", "source": "ADE20K"} and both[0].category == "Count"


def test_the_card_of_the_data_set_may_be_there(tmp_path: Path) -> None:
    folder = published_rows.write_tables("cv_bench", tmp_path)
    configs = {"default": "test*.parquet", "2D": "test_2d.parquet", "3D": "test_3d.parquet"}
    text = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {path}\n" for name, path in configs.items()
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{text}---\n")
    assert [len(BENCHMARKS[name].read(folder)) for name in ("cv-bench", "cv-bench-2d", "cv-bench-3d")] == [5, 3, 2]


def test_lines_with_the_paths_of_images(tmp_path: Path) -> None:
    for part, rows in (("2d", published_rows.ROWS["cv_bench"][:3]), ("3d", published_rows.ROWS["cv_bench"][3:])):
        lines = [json.dumps({name: cell for name, cell in row.items() if name != "image"}) for row in rows]
        (tmp_path / f"test_{part}.jsonl").write_text("\n".join(lines))
    first = BENCHMARKS["cv-bench"].read(tmp_path)[0]
    assert first.images == (f"{tmp_path}/img/2D/count/ade20k/0.png",)


def test_the_tsvs(tmp_path: Path) -> None:
    hub = _all(BENCHMARKS["cv-bench"].read(published_rows.write_tables("cv_bench", tmp_path / "hub")))
    both = _all(BENCHMARKS["cv-bench"].read(_tsvs(tmp_path)))
    assert [item.id for item in both] == ["2D-0", "2D-1", "2D-2", "3D-0", "3D-1"]
    for ours, theirs in zip(hub, both, strict=True):
        assert (ours.question, ours.images, ours.choices, ours.answers, ours.category, ours.fields, ours.text) == (
            theirs.question, theirs.images, theirs.choices, theirs.answers, theirs.category, theirs.fields, theirs.text,
        )  # fmt: skip
    assert [item.id for item in _all(BENCHMARKS["cv-bench-3d"].read(tmp_path))] == [*"01"]


@pytest.mark.parametrize("toolkit", ["lmms-eval", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    items = BENCHMARKS["cv-bench"].read(published_rows.write_tables("cv_bench", tmp_path))
    golden_files.check_prompts("cv-bench", toolkit, items, "cv_bench")


@pytest.mark.parametrize("part", ["2d", "3d"])
def test_prompts_of_vlmevalkit(tmp_path: Path, part: str) -> None:
    items = BENCHMARKS[f"cv-bench-{part}"].read(_tsvs(tmp_path))
    golden_files.check_prompts(f"cv-bench-{part}", "vlmevalkit", items, f"cv_bench_{part}")


@pytest.mark.parametrize(
    ("golden", "toolkit", "scorer", "count"),
    [
        ("cv_bench", "lmms-eval", "cv_bench_lmms_eval", 1600),
        ("cv_bench", "vlmevalkit", "vlmevalkit_option", 1600),
        ("cv_bench_3d", "vlmevalkit", "vlmevalkit_option", 800),
        ("cv_bench", "cambrian", "cv_bench_cambrian", 1600),
        ("cv_bench_3d", "cambrian", "omni_cambrian", 800),
    ],
)
def test_verdicts_are_the_toolkits_own(golden: str, toolkit: str, scorer: str, count: int) -> None:
    assert golden_files.differences(golden, toolkit, scorer) == (count, {})
    assert scorer in (BENCHMARKS["cv-bench"].variants[toolkit].scorer, "omni_cambrian")


def test_cambrian_reads_an_options_text_of_one_character_only_in_3d() -> None:
    row = {"question_id": "1", "answer": "3", "gt_answer": "B", "choices": ["2", "3"], "category": "Count"}
    scores = [
        score_rows("cv-bench", [row | {"fields": {"type": part, "source": "x"}}], Rules(toolkit="cambrian")).value.value
        for part in ("2D", "3D")
    ]
    assert scores == [0.0, 1.0]


def test_three_ways_to_average() -> None:
    def row(at: int, answer: str, part: str, source: str) -> dict[str, Any]:
        fields = {"type": part, "source": source}
        return {"question_id": str(at), "answer": answer, "gt_answer": "A", "choices": ["x", "y"], "fields": fields}

    answers = [*[("A", "2D", "ADE20K")] * 4, ("B", "2D", "COCO"), ("A", "3D", "Omni3D"), ("B", "3D", "Omni3D")]
    rows = [row(at, *one) for at, one in enumerate(answers)]
    found = score_rows("cv-bench", rows, Rules(toolkit="cambrian"))
    assert (found.metric, found.value.value) == ("parts_mean", 0.5)  # ½((1 + 0)/2 + ½)
    assert {name: one.value for name, one in found.secondary.items()} == {
        "accuracy": pytest.approx(5 / 7), "2D": 0.5, "3D": 0.5,
        "accuracy/ADE20K": 1.0, "accuracy/COCO": 0.0, "accuracy/Omni3D": 0.5,
    }  # fmt: skip
    assert score_rows("cv-bench", rows, Rules(toolkit="lmms-eval")).value.value == pytest.approx(5 / 7)
    assert score_rows("cv-bench-2d", rows[:5], Rules(toolkit="vlmevalkit")).value.value == 0.5
    assert score_rows("cv-bench-2d", rows[:5], Rules(toolkit="lmms-eval")).value.value == 0.8
