"""A small trained model answers the published rows of every benchmark by the command line, and one page shows them."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from pivot_jax.cli import main as cli
from pivot_jax.eval.benchmarks import suite
from tests.eval.benchmarks import published_rows

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


def test_the_rows_cover_the_suite():
    missing = {name for name in suite.BENCHMARKS if not rows_of(name)} - OWN
    assert missing == set()


def rows_of(name: str) -> str:
    """The published rows of a benchmark, "" where there are none."""
    own = FILES.get(name, name)
    found = (one for one in (own, own.replace("-", "_"), own.replace("-", "")) if one in published_rows.TABLES)
    return next(found, "") or next((one for one in published_rows.TABLES if own.startswith(one)), "")


@pytest.mark.heavy
def test_every_benchmark_from_the_command_line(world, trained, tmp_path, capsys):
    answers = tmp_path / "eval"
    names = [name for name in suite.BENCHMARKS if name not in OWN]
    for name in names:
        data = published_rows.write_tables(rows_of(name), tmp_path / name)
        if name == "mathvision":  # the rows are of its small split, and a split is chosen by naming its file
            data = next(data.rglob("*.parquet"))
        if name == "mm-math":  # its images are files beside the rows
            for row in published_rows.ROWS["mm_math"]:
                Image.new("RGB", (16, 16)).save(data / row["file_name"])
        out = answers / f"{name}.jsonl"
        arguments = ["eval", "--workdir", str(trained), "--benchmark", name, "--data", str(data), "--out", str(out)]
        assert cli.main([*arguments, "--max-new-tokens", "4"]) == 0, (name, capsys.readouterr().err)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert rows and all(row["benchmark"] == name and row["prompt"] for row in rows), name
    blank = ["eval", "--workdir", str(trained), "--benchmark", "pope", "--data", str(tmp_path / "pope" / "pope")]
    assert (
        cli.main([*blank, "--blank-images", "--max-new-tokens", "4", "--out", str(answers / "pope-blank.jsonl")]) == 0
    )
    capsys.readouterr()
    assert cli.main(["score", "--predictions", str(answers), "--out", str(tmp_path / "page")]) == 0
    html = (tmp_path / "page" / "report.html").read_text()
    assert all(f"{name}: all numbers" in html for name in names) and "No examples" not in html
