"""Small models answer the published rows of every benchmark by the command line, with and without the images.

One reads squares (trained here), one variable-resolution images with M-RoPE (an imported Qwen2.5-VL). One page shows
all scores.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from pivot_jax.data.processing import images
from pivot_jax.eval.benchmarks import suite
from pivot_jax.train.open import open_run
from tests.eval.benchmarks import published_rows
from tests.tiny import qwen
from tests.tiny.commands import run

# Benchmarks that share the files of another, and those that have data of their own.
FILES = {
    "cv-bench-2d": "cv_bench",
    "cv-bench-3d": "cv_bench",
    "mmvp-corrected": "mmvp",
    "hallusionbench-all": "hallusionbench",
    "mathvista-cot": "mathvista",
    "mathvista-solution": "mathvista",
}
OWN = {"easy-vqa", "scenes", "qa"}
CAPTIONS = ["coco-captions", "detailcaps"]
LEAST, MOST = 64, 512  # pixels of a resized image of the Qwen2.5-VL: 1 to 8 tokens of 8x8 pixels


def test_the_rows_cover_the_suite():
    missing = {name for name in suite.BENCHMARKS if not rows_of(name)} - OWN
    assert missing == set()


def rows_of(name: str) -> str:
    """The published rows of a benchmark, "" where there are none."""
    own = FILES.get(name, name)
    found = (one for one in (own, own.replace("-", "_"), own.replace("-", "")) if one in published_rows.TABLES)
    return next(found, "") or next((one for one in published_rows.TABLES if own.startswith(one)), "")


def data_of(name: str, folder: Path) -> Path:
    """The published rows as files."""
    data = published_rows.write_tables(rows_of(name), folder)
    if name == "mathvision":  # the rows are of its small split, and a split is chosen by naming its file
        data = next(data.rglob("*.parquet"))
    if name == "mm-math":  # its images are files beside the rows
        for row in published_rows.ROWS["mm_math"]:
            Image.new("RGB", (16, 16)).save(data / row["file_name"])
    return data


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    """The run that import-hf makes of a random Qwen2.5-VL."""
    folder = tmp_path_factory.mktemp("qwen")
    qwen.model("qwen2_5_vl", qwen.tokenizer(folder / "hf"), 1).save_pretrained(folder / "hf")
    limits = {"min_pixels": LEAST, "max_pixels": MOST, "patch_size": qwen.PATCH, "merge_size": 2}
    statistics = {"image_mean": images.CLIP_MEAN, "image_std": images.CLIP_STD}
    (folder / "hf" / "preprocessor_config.json").write_text(json.dumps(limits | statistics))
    assert run("import-hf", "--folder", folder / "hf", "--workdir", folder / "run") == 0
    return folder / "run"


@pytest.mark.heavy
@pytest.mark.parametrize("model", ["trained", "imported"])
def test_every_benchmark_from_the_command_line(model, request, tmp_path, capsys):
    names = [name for name in suite.BENCHMARKS if name not in (*OWN, *CAPTIONS)]
    seen = check_benchmarks(names, request.getfixturevalue(model), model, tmp_path, capsys)
    assert model == "trained" or len(seen) > len(names) // 2  # its random weights let every pixel change the answer


@pytest.mark.heavy
@pytest.mark.parametrize("model", ["trained", "imported"])
def test_captions_from_the_command_line(model, request, tmp_path, capsys):
    pytest.importorskip("pycocoevalcap")
    check_benchmarks(CAPTIONS, request.getfixturevalue(model), model, tmp_path, capsys)


def check_benchmarks(names, workdir, model, tmp_path, capsys) -> set[str]:
    """Answers, scores and shows them; returns those of which an answer differs without the images."""
    answers = tmp_path / "eval"
    processor = open_run(workdir).processor
    assert (processor.geometry.fixed, processor.chat.mrope) == ((model == "trained"), (model == "imported"))
    seen = set()
    for name in names:
        data, rows = data_of(name, tmp_path / name), []
        for control, file in ((), f"{name}.jsonl"), (("--blank-images",), f"{name}-blank.jsonl"):
            asked = ["eval", "--workdir", workdir, "--benchmark", name, "--data", data, "--out", answers / file]
            assert run(*asked, *control, "--max-new-tokens", 4) == 0, (name, capsys.readouterr().err)
            rows.append([json.loads(line) for line in (answers / file).read_text().splitlines()])
        asked, blank = rows
        ids = [item.id for item in suite.find(name).items(data)]
        assert [row["question_id"] for row in asked] == [row["question_id"] for row in blank] == ids, name
        assert all(row["benchmark"] == name and row["prompt"] for row in asked), name
        if any(one["answer"] != other["answer"] for one, other in zip(asked, blank, strict=True)):
            seen.add(name)
    capsys.readouterr()
    assert run("score", "--predictions", answers, "--out", tmp_path / "page") == 0
    html = (tmp_path / "page" / "report.html").read_text()
    assert all(f"{name}: all numbers" in html for name in names) and "No examples" not in html
    check_table(tmp_path / "page" / "tables" / "scores-scores.csv", names)
    return seen


def check_table(file: Path, names: list[str]) -> None:
    """A score of every benchmark, and one with blank images, inside their intervals."""
    rows = {row["Benchmark"]: row for row in csv.DictReader(file.open())}
    assert sorted(rows) == sorted(names)
    for name, row in rows.items():
        for column in ("Score", "Blank images"):
            value, low, high = (float(row[f"{column}{end}"]) for end in ("", " low", " high"))
            assert low <= value <= high, (name, column)
