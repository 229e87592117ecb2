"""A study that is killed at random moments does nothing twice, and ends with the results of one that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pivot_jax.config import catalogue
from tests.tiny.demo import reduce
from tests.torture.conftest import ENVIRONMENT

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds a study's processes in /proc"),
]
KILLS = 5


@pytest.fixture
def study(tmp_path):
    """``study.py`` of a copy of configs/demo with few images, few steps and one seed."""
    folder = tmp_path / "configs" / "demo"
    shutil.copytree(catalogue.folder() / "demo", folder, ignore=shutil.ignore_patterns("__pycache__"))
    reduce(folder)
    return folder / "study.py"


def start(study: Path, root: Path) -> subprocess.Popen:
    """Its messages go to a file: a pipe would stay open as long as a process that outlives it."""
    command = [sys.executable, "-m", "pivot_jax.cli", "study", str(study), "--workdir", str(root)]
    with messages(root).open("a") as file:
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=file)


def messages(root: Path) -> Path:
    return root.with_suffix(".txt")


def processes(root: Path) -> list[int]:
    """Snakemake and jobs of a study: every process whose command line names its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(root).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # it has ended
                continue
    return found


def results(root: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (root / "results").glob("*.json")}


def tables(root: Path) -> dict[str, str]:
    """The report's tables, without those of time."""
    return {
        path.name: path.read_text() for path in (root / "report" / "tables").glob("*.csv") if "cost" not in path.name
    }


def test_a_study_killed_at_random_moments(study, tmp_path, note):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    process = start(study, whole)
    assert process.wait(timeout=1800) == 0, messages(whole).read_text()
    span, draw = time.monotonic() - began, random.Random(os.environ.get("PIVOT_TORTURE_SEED", "0"))
    kept: dict[str, tuple[int, bytes]] = {}
    for number in range(KILLS):
        process = start(study, killed)
        time.sleep(draw.uniform(0.05, 0.4) * span)
        # Every other time the command alone dies: Snakemake and its jobs have to notice it by themselves.
        for pid in processes(killed) if number % 2 else [process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(timeout=60)
        now = results(killed)
        assert {name: now[name] for name in kept} == kept  # nothing finished was done again
        kept = now
    process = start(study, killed)
    assert process.wait(timeout=1800) == 0, messages(killed).read_text()
    now = results(killed)
    assert {name: now[name] for name in kept} == kept
    assert json.loads((killed / "results.json").read_text()) == json.loads((whole / "results.json").read_text())
    assert tables(killed) == tables(whole) and len(tables(whole)) > 5
    note("killed at a random moment", "study", KILLS, "the same results and tables; nothing finished was done twice")
