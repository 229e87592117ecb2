"""The real toolkits as processes of their own, each in the environment that the tests run in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from pivot_jax.eval import answer_files

LIMIT_S = 1500
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none"}


def need(package: str, install: str) -> None:
    """Skips the tests of a module where a toolkit is not installed."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed here ({install})", allow_module_level=True)


def ran(argv: list[str], **environment: str) -> str:
    """What a process printed, after it ended well."""
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=os.environ | OFFLINE | environment
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


@contextmanager
def served(workdir: Path) -> Iterator[str]:
    """The address of ``pivot-jax serve``."""
    argv = [sys.executable, "-m", "pivot_jax.cli", "serve", "--workdir", str(workdir), "--port", "0", "--slots", "16"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
        assert found, line
        yield found[0]
    finally:
        process.terminate()
        process.wait(60)


def lmms_eval(folder: Path, task: str, model: str, arguments: str, out: Path, *more: str) -> tuple[Path, dict]:
    """Runs ``python -m lmms_eval`` on a task file in ``folder``; returns the samples file and the task's results."""
    argv = [sys.executable, "-m", "lmms_eval", "--model", model, "--model_args", arguments, "--tasks", task]
    argv += ["--include_path", str(folder), "--output_path", str(out), "--log_samples", *more]
    said = ran(argv, HF_HOME=str(folder / "hf"))
    samples = next(out.rglob(f"*_samples_{task}.jsonl"), None)
    assert samples is not None, said[-4000:]  # after an error lmms-eval ends with code 0 all the same
    (results,) = out.rglob("*_results.json")
    return samples, json.loads(results.read_text())["results"][task]


def answers(samples: Path) -> list[str]:
    """The answers of a samples file, by position of the question."""
    toolkit, rows = answer_files.read(samples)
    assert toolkit == "lmms-eval"
    return [row["answer"] for row in sorted(rows, key=lambda row: int(row["question_id"]))]
