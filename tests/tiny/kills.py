"""Runs that are killed and resumed, and what has to be the same afterwards; for every training loop."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax import rules
from pivot_jax.train import checkpoint
from pivot_jax.train.metrics import last_step, read

SPEED = ("perf/", "seconds")
ONE_DEVICE = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
CODE = """
import sys; from pathlib import Path; from pivot_jax import config as c; from pivot_jax.rl.run import run
if __name__ == "__main__": run(c.from_json(Path(sys.argv[1]).read_text()), sys.argv[2])
"""


def trace(workdir: Path) -> list[dict[str, Any]]:
    """Metrics that do not depend on the clock."""
    return [{k: v for k, v in line.items() if not k.startswith(SPEED)} for line in read(workdir / "metrics.jsonl")]


def same_bits(a: Path, b: Path) -> None:
    """Both runs ended with the same parameters."""
    ours, theirs = (rules.flatten(checkpoint.load_run(workdir)) for workdir in (a, b))
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)


def ended_at_once(process: subprocess.Popen, number: int, err: str, moment: float) -> bool:
    """Whether a command that got a signal before its first step, ``moment`` seconds after its start, died of it.

    Without a traceback, except in the interpreter's own start: in it Ctrl-C leaves one, which cannot be changed.
    """
    starting = moment < 0.2 and err.rstrip().endswith("KeyboardInterrupt")
    return starting or ("Traceback" not in err and process.returncode in (-number, 128 + number))


def start(config_file: Path, workdir: Path) -> subprocess.Popen:
    """A run of any kind in a process of its own."""
    command = [sys.executable, "-c", CODE, str(config_file), str(workdir)]
    return subprocess.Popen(command, env=ONE_DEVICE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_with_kills(config_file: Path, workdir: Path, steps: list[int], draw: random.Random, spread: float) -> None:
    """Runs to the end, killed once for each of ``steps``: up to ``spread`` seconds after that step was logged."""
    kills = 0
    for at in sorted(steps):
        process = start(config_file, workdir)
        limit = time.monotonic() + 300
        while last_step(workdir / "metrics.jsonl") < at and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, spread))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert start(config_file, workdir).wait(300) == 0
    assert kills == len(steps), "the run was over before it could be killed; make it longer"
