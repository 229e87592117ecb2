"""VLMEvalKit's ``run.py``, unmodified, on a run of ours through ``serve``: its answers and score are ours."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pandas
import pytest

from pivot_jax.cli import main as cli
from pivot_jax.eval import score
from pivot_jax.eval.score import Rules
from tests.tiny import runs
from tests.toolkits import runs as toolkit_runs
from tests.toolkits import world

if not os.environ.get("VLMEVALKIT"):
    pytest.skip("no VLMEvalKit: set VLMEVALKIT to a checkout and install its requirements", allow_module_level=True)

NAME = "MME_LOCAL"  # VLMEvalKit takes MME's rules for it, but does not compare the file with the published one


@pytest.fixture(scope="module")
def folder() -> Path:
    """Read only."""
    return runs.once("toolkits", world.draw)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Path:
    """The folder that run.py wrote."""
    out, data = tmp_path_factory.mktemp("vlmevalkit"), tmp_path_factory.mktemp("data")
    (data / f"{NAME}.tsv").write_bytes((folder / f"{NAME}.tsv").read_bytes())
    config = json.dumps({NAME: {"class": "ImageYORNDataset", "dataset": NAME}})
    checkout = os.environ["VLMEVALKIT"]
    with toolkit_runs.served(folder / "run") as url:
        argv = [sys.executable, f"{checkout}/run.py", "--data", NAME, "--data-config", config, "--model", "run"]
        argv += ["--base-url", url, "--key", "sk-none", "--max-tokens", "2048", "--work-dir", str(out)]
        toolkit_runs.ran([*argv, "--judge", "exact_matching"], LMUData=str(data), PYTHONPATH=_path(checkout))
    return out


def _path(checkout: str) -> str:
    return os.pathsep.join([checkout, *filter(None, [os.environ.get("PYTHONPATH")])])


def predictions(run: Path) -> Path:
    (file,) = run.rglob(f"run/T*/run_{NAME}.xlsx")
    return file


def test_the_answers_are_those_of_pivot_jax_eval(run, folder, tmp_path):
    out = tmp_path / "mme.jsonl"
    argv = ["eval", "--workdir", folder / "run", "--benchmark", "mme", "--data", folder / f"{NAME}.tsv", "--out", out]
    assert cli.main([str(word) for word in [*argv, "--toolkit", "vlmevalkit"]]) == 0
    ours = {row["question_id"]: row["answer"] for row in map(json.loads, out.read_text().splitlines())}
    theirs = pandas.read_excel(predictions(run), dtype=str)
    assert dict(zip(theirs["index"], theirs["prediction"], strict=True)) == ours
    assert len(set(ours.values())) > 1


def test_our_score_of_its_file_is_the_one_that_it_writes(run, folder):
    found = score.score_file(predictions(run), "mme", Rules("vlmevalkit"), data=folder / f"{NAME}.tsv").intervals()
    (written,) = run.rglob(f"run/T*/run_{NAME}_score.csv")
    table = pandas.read_csv(written)
    assert table["perception"][0] == pytest.approx(found["perception"].value) and found["perception"].value > 0
    assert table["reasoning"][0] == pytest.approx(found["cognition"].value)
