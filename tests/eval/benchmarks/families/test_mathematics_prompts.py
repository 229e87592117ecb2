"""Mathematics and MMMU: both published forms, and the toolkits' own prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivot_jax.eval.benchmarks import suite
from tests.eval.benchmarks import golden_files, published_rows

CASES = [
    ("mmmu", "cambrian", ""),
    ("mmmu", "lmms-eval", ""),
    ("mmmu", "vlmevalkit", ""),
    ("mathvista", "cambrian", ""),
    ("mathvista", "lmms-eval", ""),
    ("mathvista", "vlmevalkit", ""),
    ("mathvista-cot", "lmms-eval", "mathvista_cot"),
    ("mathvista-solution", "lmms-eval", "mathvista_solution"),
    ("mathverse", "lmms-eval", ""),
    ("mathverse", "vlmevalkit", ""),
    ("mathvision", "lmms-eval", ""),
    ("mathvision", "vlmevalkit", ""),
    ("geometry3k-choices", "lmms-eval", "geometry3k_choices"),
    ("mm-math", "vlmevalkit", "mm_math"),
]


@pytest.mark.parametrize(("benchmark", "toolkit", "golden"), CASES)
def test_prompts_are_the_toolkits_own(tmp_path: Path, benchmark: str, toolkit: str, golden: str) -> None:
    rows = (golden or benchmark).partition("_cot")[0].partition("_solution")[0]
    write = published_rows.write_tsv if toolkit == "vlmevalkit" else published_rows.write_tables
    path = write(rows, tmp_path)
    if rows == "mathvision" and path.is_dir():
        path = path / "data" / "testmini-00000-of-00001.parquet"  # the family's default is the split test
    items = suite.find(benchmark).read(path)
    golden_files.check_prompts(benchmark, toolkit, items, golden)
