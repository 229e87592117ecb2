"""Runs that are killed, stopped and damaged, compared with one that nothing stopped: `make torture`."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from pivot_jax.errors import UserError
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
    """At moments from 50 ms after the start to the middle of training."""
    config = config_of("sft", train__steps=400, train__checkpoint_every=50)
    whole, delays, codes = whole_of(config, tmp_path), [], set()
    for moment in np.geomspace(0.05, 30.0, TIMES):
        with subprocess.Popen(
            command(config, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        ) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            if process.poll() is not None:
                break  # it has reached its last step
            process.send_signal(number)
            sent = time.monotonic()
            err = process.communicate(timeout=120)[1]
        delays.append(time.monotonic() - sent)
        codes.add(process.returncode)
        assert ended_at_once(process, number, err, moment), err
    subprocess.run(command(config, tmp_path), check=True, env=ENVIRONMENT, capture_output=True, timeout=600)
    same(tmp_path / "run", whole)
    outcome = "ended at once before the first step, saved after it; resumed to the same bits"
    note(signal.Signals(number).name, "sft", len(delays), outcome, max(delays))


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
