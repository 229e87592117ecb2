"""Runs whose disk is full or read-only, whose data hang, or whose workdir another run wants: `make torture`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pivot_jax.train import checkpoint
from pivot_jax.train.metrics import last_step
from pivot_jax.train.signals import stopping
from tests.tiny import commands
from tests.torture.conftest import ENVIRONMENT, command, same, whole_of

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]
CLI = [sys.executable, "-m", "pivot_jax.cli"]
QUESTIONS = ["--benchmark", "scienceqa", "--data"]


def call(argv: list[object], **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"env": ENVIRONMENT, "timeout": 600, "capture_output": True, "text": True} | options
    return subprocess.run([str(word) for word in argv], check=False, **options)


def ends(argv: list[object], **options: Any) -> None:
    """Runs a command that succeeds."""
    done = call(argv, **options)
    assert done.returncode == 0, done.stderr[-2000:]


def fails(argv: list[object], **options: Any) -> str:
    """The last line of a command that ends with exit code 1 and no traceback."""
    done = call(argv, **options)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.stderr.splitlines()[-1]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def test_full_disk_under_predictions(note, tmp_path_factory):
    """The answers that fitted are kept; the same command goes on after them."""
    world = commands.world(tmp_path_factory)
    argv = ["eval", "--workdir", world / "run", *QUESTIONS, world / "questions.jsonl"]
    ends([*CLI, *argv, "--out", world / "whole.jsonl"])
    out = world / "answers.jsonl"
    size = (world / "whole.jsonl").stat().st_size
    says = fails([sys.executable, "-c", FULL, size // 2, *argv, "--out", out])
    assert f"{out} could not be written" in says
    ends([*CLI, *argv, "--out", out])
    assert out.read_bytes() == (world / "whole.jsonl").read_bytes()
    note("full disk: predictions", "eval", 1, "one line with the file and the fix; the same command goes on")


HANG = """
import sys, time
from pathlib import Path
from pivot_jax.cli.main import main
from pivot_jax.data.processing.processor import Processor
read = Processor.read_images
def hanging(self, images):
    if Path(sys.argv[1]).exists(): time.sleep(1e9)
    return read(self, images)
Processor.read_images = hanging
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("kind", "number"),
    [*(("sft", number) for number in (None, *stopping())), ("grpo", None), ("grpo", signal.SIGTERM)],
)
def test_hung_source(config_of, note, tmp_path, kind, number):
    """Images stop coming in the middle of a run: it ends by its time limit, or at once by a signal."""
    changes = {"data__cache_images_mib": 0, "data__read_timeout_s": 5.0 if number is None else 600.0}
    steps = {"sft": 400, "grpo": 60}[kind]
    config = config_of(kind, train__steps=steps, train__checkpoint_every=50, **changes)
    whole, argv, hang = whole_of(config, tmp_path), command(config, tmp_path), tmp_path / "hang"
    hanging = [sys.executable, "-c", HANG, str(hang), *argv[3:]]
    with subprocess.Popen(hanging, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        while last_step(tmp_path / "run" / "metrics.jsonl") < steps // 20 and process.poll() is None:
            time.sleep(0.01)
        hang.touch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1 if number else 120)  # the rows read ahead are used up
        began = time.monotonic()
        if number:
            process.send_signal(number)
        err = process.communicate(timeout=120)[1]
    delay = time.monotonic() - began
    assert process.returncode == (128 + number if number else 1) and "Traceback" not in err, err
    assert number or "was not read in data.read_timeout_s=5" in err, err
    assert checkpoint.newest(tmp_path / "run") >= steps // 20
    hang.unlink()
    ends(argv)
    same(tmp_path / "run", whole)
    name = signal.Signals(number).name if number else "time limit"
    note(f"hung data source: {name}", kind, 1, "saved; resumed to the same bits", delay if number else None)


def test_two_runs_in_one_workdir(config_of, note, tmp_path):
    config = config_of("sft", train__steps=1500, train__checkpoint_every=50)
    whole, argv = whole_of(config, tmp_path), command(config, tmp_path)
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        while last_step(tmp_path / "run" / "metrics.jsonl") < 5 and process.poll() is None:
            time.sleep(0.01)
        tries = 0
        while process.poll() is None and tries < 5:
            done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
            if process.poll() is not None:
                break  # the first ended while this one started
            assert done.returncode == 1, done.stderr
            assert f"training there already (process {process.pid}" in done.stderr.splitlines()[-1]
            tries += 1
    assert process.returncode == 0 and tries > 0
    same(tmp_path / "run", whole)
    note("a second run in the same workdir", "sft", tries, "refused with host, process and time; the first unchanged")


def test_read_only_places(note, tmp_path):
    """Permissions stop root only without its capabilities, which ``setpriv`` takes away."""
    plain: list[object] = []
    if os.getuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("permissions do not stop root, and setpriv (util-linux) is not installed")
        plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
    world, run = tmp_path, tmp_path / "run"
    commands.draw(world)
    ends([*CLI, "extract", "--workdir", run, "--out", world / "pack"])
    ends([*CLI, "eval", "--workdir", run, *QUESTIONS, world / "questions.jsonl", "--out", world / "answers.jsonl"])
    shutil.copytree(run, world / "stopped")
    (world / "stopped" / "result.json").unlink()
    (world / "home" / "writable").mkdir(parents=True)
    new, train = world / "new", ["train", "--config", world / "tiny.py", "--workdir"]
    writes = {
        "train": [*train, new],
        "train, resumed": [*train, world / "stopped"],
        "demo": ["demo", "--workdir", new],
        "eval": ["eval", "--workdir", run, *QUESTIONS, world / "questions.jsonl"],
        "score": ["score", "--predictions", world / "answers.jsonl"],
        "extract": ["extract", "--workdir", run, "--out", new],
        "export-hf": ["export-hf", "--workdir", run, "--out", new],
        "report": ["report", "--workdir", run],
        "configs --copy": ["configs", "--copy", "demo/grpo.py", "--to", world / "configs"],
    }
    with read_only(world):
        (world / "home" / "writable").chmod(0o777)
        before = files_of(world)
        for name, words in writes.items():
            says = fails([*plain, *CLI, *words], cwd=world)
            assert str(world) in says and ("ermission denied" in says), (name, says)
            assert files_of(world) == before, name
        # Data, home and caches that cannot be written to do not matter to a run.
        home = ENVIRONMENT | {"HOME": str(world / "home")}
        ends([*plain, *CLI, *train, world / "home" / "writable" / "run"], cwd=world, env=home)
    same(world / "home" / "writable" / "run", run)
    note("read-only place", "; ".join(writes), len(writes), "one line with the place, nothing changed")
    note("read-only data, home and working directory", "train", 1, "trains as ever")


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Everybody may read everything in the folder, and nobody may write."""
    everything = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in everything}
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
