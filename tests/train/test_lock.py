"""A workdir takes one run at a time."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from pivot_jax import config as configs
from pivot_jax.errors import UserError
from pivot_jax.train import checkpoint
from pivot_jax.train.lock import FILE, locked
from pivot_jax.train.run import run
from pivot_jax.train.signals import Interrupted
from tests.tiny.kills import start
from tests.train.conftest import stop_at

HOLD = """
import sys, time; from pathlib import Path; from pivot_jax.train.lock import locked
with locked(Path(sys.argv[1])): print("locked", flush=True); time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_second_process_is_kept_out_until_the_first_dies(tmp_path, end):
    """It is told who has the workdir; the kernel releases the lock of a killed process."""
    workdir = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(workdir)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        for _ in range(2):  # the refused one does not write its own name over the holder's
            with pytest.raises(UserError) as error, locked(workdir):
                pass
            assert f"a run is training there already (process {process.pid} on {socket.gethostname()}" in str(
                error.value
            )
        process.send_signal(end)
        process.wait()
    with locked(workdir):
        (workdir / "config.json").write_text("{}")
    assert (workdir / FILE).exists()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with locked(tmp_path / "run"):
        assert "its file system has no locks, so nothing keeps a second run out" in caplog.text


def test_a_second_run_leaves_the_first_alone(make_config, tmp_path):
    """While one trains, another with the same command is refused, and the first ends as if nothing had been."""
    config = make_config(train__steps=400)
    file, workdir = tmp_path / "config.json", tmp_path / "run"
    file.write_text(configs.to_json(config))
    process = start(file, workdir)
    limit = time.monotonic() + 200
    while not (workdir / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    assert process.poll() is None
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match=f"training there already .process {process.pid} on .*name another --workdir"):
        run(make_config(train__steps=400, optimizer__weight_decay=0.5), workdir)
    assert process.poll() is None and (workdir / "config.json").read_bytes() == before
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    assert checkpoint.newest(workdir) < 400


def test_a_config_that_is_refused_leaves_no_folder(make_config, tmp_path):
    with pytest.raises(UserError):
        run(make_config(data__batch_size=10**6), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.heavy
def test_a_closed_terminal_saves(make_config, tmp_path):
    """SIGHUP; under nohup it is ignored, and the run goes on."""
    config = make_config(train__steps=4, eval__every=1)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(config, tmp_path / "nohup", [stop_at(2, number=signal.SIGHUP)]).step == 4
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(Interrupted) as stopped:
            run(config, tmp_path / "closed", [stop_at(2, number=signal.SIGHUP)])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert stopped.value.signum == signal.SIGHUP and checkpoint.newest(tmp_path / "closed") == 3
    assert os.listdir(tmp_path / "closed" / "checkpoints") == ["3"]
