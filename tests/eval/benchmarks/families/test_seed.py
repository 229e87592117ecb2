"""SEED-Bench: both published forms, the toolkits' prompts and verdicts, and published scores of two models."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.families import seed
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.score import Rules, score_rows, verdicts
from tests.eval.benchmarks import golden_files, published_rows
from tests.eval.benchmarks.published.table import Table

VIDEO = ("2",)  # position of the video among the published rows


def test_both_forms_without_the_videos(tmp_path: Path) -> None:
    hub = seed.read(published_rows.write_tables("seed", tmp_path))
    tsv = seed.read(published_rows.write_tsv("seed", tmp_path, "SEEDBench_IMG.tsv"))
    assert len(hub) == len(tsv) == 2
    for ours, theirs in ((hub[at], tsv[at]) for at in range(2)):
        assert (ours.question, ours.images, ours.choices, ours.answers) == (
            theirs.question, theirs.images, theirs.choices, theirs.answers,
        )  # fmt: skip
    assert hub[0].id == "101669" and hub[0].category == "Instance Attribute" and hub[0].unit == "101669_101669"


def test_a_question_that_is_published_twice_gets_an_id_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = published_rows.TABLES["seed"][0]
    rows = [table.rows[0], table.rows[0] | {"question_type_id": 1}]
    monkeypatch.setitem(published_rows.TABLES, "seed", [Table(table.path, table.columns, rows)])
    items = seed.read(published_rows.write_tables("seed", tmp_path))
    assert [items[at].id for at in range(2)] == ["101669", "101669#2"]


def test_a_type_of_question_that_is_unknown_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = published_rows.TABLES["seed"][0]
    monkeypatch.setitem(
        published_rows.TABLES, "seed", [Table(table.path, table.columns, [table.rows[0] | {"question_type_id": 11}])]
    )
    with pytest.raises(UserError, match="column 'question_type_id' is 11, not a number from 1 to 9; correct it"):
        seed.read(published_rows.write_tables("seed", tmp_path))


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_prompts_are_the_toolkits_own(tmp_path: Path, toolkit: str) -> None:
    tsv = toolkit == "vlmevalkit"
    path = (published_rows.write_tsv if tsv else published_rows.write_tables)("seed", tmp_path)
    golden_files.check_prompts("seed", toolkit, seed.read(path), left_out=() if tsv else VIDEO)


def test_cambrian_shows_the_first_image(tmp_path: Path) -> None:
    path = published_rows.write_tables("seed", tmp_path)
    video = published(path, "SEED", hf=lambda row: seed._hub(row.__class__(
        {**row.values, "question_type_id": 3}, row.id, row.name, row.images_of)), split="test", id_key="question_id",
        where=("data_type", "video"))[0]  # fmt: skip
    variants = seed.BENCHMARKS["seed"].variants
    shown = variants["cambrian"].example(video)
    golden = golden_files.read("prompts_cambrian")["benchmarks"]["seed"]["2"]["prompt"]
    assert shown.messages[0].content == golden and len(shown.images) == 1
    assert len(variants["lmms-eval"].example(video).images) == 3


@pytest.mark.parametrize("toolkit", ["lmms-eval", "vlmevalkit", "cambrian"])
def test_verdicts_are_the_toolkits_own(toolkit: str) -> None:
    scorer = seed.BENCHMARKS["seed"].variants[toolkit].scorer
    assert golden_files.differences("seed", toolkit, scorer) == (1200, {})


def test_llava_takes_nothing_but_the_letter() -> None:
    def score(answer: str) -> float:
        row = {"question_id": "1", "answer": answer, "gt_answer": "B", "choices": [*"wxyz"], "unit": "1"}
        return score_rows("seed", [row], Rules(toolkit="llava")).value.value

    assert [score(answer) for answer in ("B", "b", "B.", "", "A")] == [1, 0, 0, 0, 0]


def _answers(folder: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(folder / "eval_outputs_more" / "seed_bench" / name, "rt", encoding="utf-8") as file:
        return [json.loads(line.strip().rstrip(",")) for line in file]  # lines of one file end with a comma


@pytest.mark.parametrize(("model", "count", "right"), [("GPT-4V", 14232, 9832), ("llava-v1.5-13b", 14233, 9708)])
def test_published_scores(shared_data: Path, model: str, count: int, right: int) -> None:
    """Published: 69.1 and 68.2. GPT-4V's file has the golds, some twice; LLaVA's answers question 49914 twice."""
    golds: dict[str, str] = {}
    for row in (published := _answers(shared_data, "GPT-4V.json.gz")):
        golds.setdefault(row["question_id"], row["gt_answer"])
    answers = published if model == "GPT-4V" else _answers(shared_data, "llava-v1.5-13b.jsonl.gz")
    rows: dict[str, dict[str, Any]] = {}
    for row in answers:
        own = row["question_id"]
        if own.startswith("v") or own not in golds or (own in rows and model == "GPT-4V"):
            continue
        name = own if own not in rows else f"{own}#2"
        rows[name] = {"question_id": name, "answer": row["prediction"], "gt_answer": golds[own], "unit": own}
        rows[name]["choices"] = [*"wxyz"]
    assert len(rows) == count
    for variant in seed.BENCHMARKS["seed"].variants.values():
        assert sum(one.verdict for one in verdicts(list(rows.values()), variant.scorer)) == right
    found = score_rows("seed", list(rows.values()), Rules(toolkit="lmms-eval"))
    assert found.value.value == pytest.approx(right / count)
