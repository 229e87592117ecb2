"""Runs that are killed, stopped and damaged, compared with one that nothing stopped: `make torture`."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.train import checkpoint
from pivot_jax.train.metrics import last_step
from pivot_jax.train.run import run as train
from tests.tiny.damage import DAMAGE
from tests.tiny.kills import ended_at_once, run_with_kills
from tests.torture.conftest import ENVIRONMENT, KINDS, command, same, whole_of

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]
TIMES = int(os.environ.get("PIVOT_TORTURE_TIMES", "20"))
STEPS = 8 * TIMES


@pytest.mark.parametrize("kind", KINDS)
def test_kills(config_of, note, tmp_path, kind):
    """SIGKILL in a chain, between checkpoints and inside saves: every second step saves."""
    config, draw = config_of(kind, train__steps=STEPS, train__checkpoint_every=2), random.Random(5)
    whole, file = whole_of(config, tmp_path), tmp_path / "whole.json"
    run_with_kills(file, tmp_path / "run", sorted(draw.sample(range(1, STEPS - 20), TIMES)), draw, 0.2)
    same(tmp_path / "run", whole)
    note("kill -9, resumed, in a chain", kind, TIMES, "same parameters and metrics, to the bit")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals(config_of, note, tmp_path, number):
    """Half of them at moments of the start, from 50 ms on; half after a step, of a run that resumes each time."""
    config, draw = config_of("sft", train__steps=2000, train__checkpoint_every=500), random.Random(number)
    whole, run = whole_of(config, tmp_path), tmp_path / "run"
    starting, training = [], []
    for moment in np.geomspace(0.05, 5.0, TIMES // 2):
        with started(config, tmp_path) as process:
            time.sleep(moment)
            delay, err = signalled(process, number)
        assert ended_at_once(process, number, err, moment) and not checkpoint.complete(run), err
        starting.append(delay)
    for _ in range(TIMES - TIMES // 2):
        at = (checkpoint.newest(run) if checkpoint.complete(run) else 0) + draw.randint(1, 15)
        with started(config, tmp_path) as process:
            while last_step(run / "metrics.jsonl") < at and process.poll() is None:
                time.sleep(0.005)
            delay, err = signalled(process, number)
        assert process.returncode == 128 + number and "checkpoint saved" in err and "Traceback" not in err, err
        assert checkpoint.newest(run) >= at
        training.append(delay)
    subprocess.run(command(config, tmp_path), check=True, env=ENVIRONMENT, capture_output=True, timeout=600)
    same(run, whole)
    name = signal.Signals(number).name
    note(f"{name} before the first step", "sft", len(starting), "ended at once", max(starting))
    note(f"{name} after a step", "sft", len(training), "saved; resumed to the same bits", max(training))


def started(config: Any, folder: Path) -> subprocess.Popen:
    pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(config, folder), env=ENVIRONMENT, **pipes)


def signalled(process: subprocess.Popen, number: int) -> tuple[float, str]:
    """Seconds from the signal to the end of the process, and its stderr."""
    process.send_signal(number)
    sent = time.monotonic()
    err = process.communicate(timeout=120)[1]
    return time.monotonic() - sent, err


@pytest.mark.parametrize("both", [False, True], ids=["newest", "both"])
def test_damage(config_of, note, tmp_path, both):
    config = config_of("sft", train__steps=8, train__checkpoint_every=4)
    whole = tmp_path / "whole"
    train(config, whole)
    names = ["array truncated", "bit flipped late", "folder empty"] if both else list(DAMAGE)
    for name in names:
        copy = tmp_path / name.replace(" ", "_")
        shutil.copytree(whole, copy)
        (copy / "result.json").unlink()
        for step in (4, 8) if both else (8,):
            DAMAGE[name](copy / "checkpoints" / str(step))
        if both:
            before = sorted(path for path in copy.rglob("*"))
            with pytest.raises(UserError, match="every checkpoint .* is damaged"):
                train(config, copy)
            assert before == sorted(path for path in copy.rglob("*") if path.name != ".lock" or path in before)
        else:
            train(config, copy)
            same(copy, whole)
            assert [path.name for path in (copy / "damaged").iterdir()] == ["8"]
    outcome = "refused, nothing changed" if both else "set aside; resumed from the one before to the same bits"
    note("damaged: both checkpoints" if both else "damaged: the newest checkpoint", "sft", len(names), outcome)
