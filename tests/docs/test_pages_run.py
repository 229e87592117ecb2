"""What the documentation tells its readers to do works, in the order in which a page says it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.docs import pages
from tests.tiny import commands, runs

START = "docs/start/first-run.md"  # the other pages begin with what its reader has made
PAGES = [page for page in pages.pages() if page != START and any(block.runs for block in pages.blocks(page))]

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]


def follow(folder: Path) -> None:
    """The folder of a reader of the first page, with the Stage 1b that the demo leaves behind, of one step."""
    pages.run(START, folder)
    demo = folder / "runs" / "demo"
    shutil.copytree(folder / "own" / "tokenizer", demo / "data" / "tokenizer")
    source = {"format": "llava", "path": str(folder / "own" / "rows.json")}
    keys = ["init.=", "train.steps=1", "data.batch_size=4", f"data.sources=({source},)"]
    keys.append(f"tokenizer.path={demo / 'data' / 'tokenizer'}")
    words = ["train", "--config", "demo/stage1b.py", "--workdir", demo / "cells" / "sft,seed0" / "stage1b"]
    assert commands.run(*words, *(f"--config.{key}" for key in keys)) == 0


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(runs.once("documentation", follow), tmp_path / "reader", symlinks=True)


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_first_run_is_as_its_page_says(folder):
    sft, dpo, grpo = (metrics(folder / "runs" / "own" / name) for name in ("sft", "dpo", "grpo"))
    assert sft[-1]["step"] == 200 and sft[-1]["mean_token_accuracy"] > 0.95
    assert dpo[-1]["rewards/margins"] > dpo[0]["rewards/margins"] and dpo[-1]["rewards/accuracies"] > 0.9
    assert dpo[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert 0.2 < grpo[0]["reward"] < 1 and any((folder / "runs/own/grpo/completions").glob("*.jsonl"))
    for name in ("sft", "grpo"):
        assert (folder / "runs" / "own" / name / "report.html").is_file()
    assert (folder / "own" / "map.png").is_file() and (folder / "own-hf" / "config.json").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page, folder):
    pages.run(page, folder)
