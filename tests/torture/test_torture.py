"""Runs that are killed, stopped and damaged, and full disks, compared with one that nothing stopped: `make torture`."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax.errors import UserError
from pivot_jax.train import checkpoint
from pivot_jax.train.run import run as train
from tests.rl.conftest import completions
from tests.tiny.damage import DAMAGE
from tests.tiny.kills import ONE_DEVICE, run_with_kills, same_bits, trace
from tests.torture.conftest import KINDS

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]
TIMES = int(os.environ.get("PIVOT_TORTURE_TIMES", "20"))
STEPS = 8 * TIMES
ENVIRONMENT = ONE_DEVICE | {"PYTHONPATH": str(Path(__file__).parents[2])}


def command(config: object, folder: Path, name: str = "run") -> list[str]:
    file = folder / f"{name}.json"
    file.write_text(configs.to_json(config))
    return [sys.executable, "-m", "pivot_jax.cli", "train", "--config", str(file), "--workdir", str(folder / name)]


def whole_of(config: object, folder: Path) -> Path:
    """The reference, trained in a process of the same kind."""
    subprocess.run(command(config, folder, "whole"), check=True, env=ENVIRONMENT, capture_output=True, timeout=1200)
    return folder / "whole"


def same(ours: Path, theirs: Path) -> None:
    same_bits(ours, theirs)
    assert trace(ours) == trace(theirs)
    assert completions(ours) == completions(theirs)


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
        ours = "pivot_jax" in err
        assert "Traceback" not in err or not ours, err
        assert process.returncode in (-number, 128 + number) or "Traceback" in err
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


FULL = """
import resource, signal, sys
from pivot_jax.cli.main import main
from pivot_jax.train.checkpoints import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
if sys.argv[1] == "checkpoint":
    save = Checkpoints.save
    def limited(self, step, *a, **k):
        if step >= 8: self.wait(); limit(20_000)
        save(self, step, *a, **k)
    Checkpoints.save = limited
else:
    limit(int(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("where", ["checkpoint", "metrics", "export"])
def test_full_disk(config_of, note, tmp_path, where):
    """A limit on the size of files stands for the full disk: writing fails half-way."""
    config = config_of("sft", train__steps=12, train__checkpoint_every=4)
    whole, argv = whole_of(config, tmp_path), command(config, tmp_path)[3:]
    limit = "checkpoint" if where == "checkpoint" else "2000"
    if where == "export":
        shutil.copytree(whole, tmp_path / "run")
        argv = ["export-hf", "--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "hf")]
    full = [sys.executable, "-c", FULL, limit, *argv]
    done = subprocess.run(full, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "could not be written" in done.stderr.splitlines()[-1], done.stderr
    if where == "checkpoint":
        assert checkpoint.newest(tmp_path / "run") == 4
    assert not (tmp_path / "hf").exists()
    subprocess.run(
        [*command(config, tmp_path)[:3], *argv], check=True, env=ENVIRONMENT, capture_output=True, timeout=600
    )
    same(tmp_path / "run", whole)
    note(
        f"full disk: {where}",
        "sft",
        1,
        "one line with the file and the fix; the same command then ends as if never full",
    )
