"""Signals before the first step, between two steps, and while a data source hangs."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax.cli.main import unraisable
from pivot_jax.data.loading.loader import Loader
from pivot_jax.train import checkpoint
from pivot_jax.train.run import run
from pivot_jax.train.session import Session
from pivot_jax.train.signals import Interrupted, StopSignals
from tests.tiny.kills import ONE_DEVICE, ended_at_once, same_bits, trace


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.heavy_after(1)
def test_a_signal_stops_a_run_that_waits_for_data(make_config, tmp_path, monkeypatch, number):
    """The state is saved, and the batch that never came is the next one of the resumed run."""
    config = make_config(train__steps=4)
    batch_at, hangs = Loader.batch_at, threading.Event()

    def hanging(self, step):
        if step == 2:
            hangs.wait(300)
        return batch_at(self, step)

    take = Session.take

    def taking(self, state):
        if self.step == 2 and not hangs.is_set():
            threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
        return take(self, state)

    monkeypatch.setattr(Loader, "batch_at", hanging)
    monkeypatch.setattr(Session, "take", taking)
    with pytest.raises(Interrupted) as stopped:
        run(config, tmp_path / "stopped")
    assert stopped.value.step == 2 and checkpoint.newest(tmp_path / "stopped") == 2
    hangs.set()
    run(config, tmp_path / "whole")
    assert run(config, tmp_path / "stopped").step == 4
    assert trace(tmp_path / "stopped") == trace(tmp_path / "whole")
    same_bits(tmp_path / "stopped", tmp_path / "whole")


def test_where_ctrl_c_is_left_to_the_kernel_signals_are_caught_from_the_first_step_on(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with StopSignals() as signals:
            assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
            signals.arm()
            signals.arm()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            assert signals.received == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
    finally:
        signal.signal(signal.SIGINT, before[signal.SIGINT])


def test_ctrl_c_inside_a_callback_of_the_garbage_collector_is_not_lost(monkeypatch):
    """Python prints the exception of such a callback and goes on."""
    monkeypatch.setattr(sys, "unraisablehook", unraisable)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it

    def callback(phase, info):
        if phase == "start":
            gc.callbacks.remove(callback)
            raise KeyboardInterrupt

    gc.callbacks.append(callback)
    try:
        with pytest.raises(KeyboardInterrupt):
            gc.collect()
            time.sleep(5)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_start_ends_the_command_at_once(make_config, tmp_path, number):
    """At moments from 5 ms to the first steps. It dies within seconds, and the same command then trains to the end."""
    file, workdir = tmp_path / "config.json", tmp_path / "run"
    file.write_text(configs.to_json(make_config(train__steps=30)))
    command = [sys.executable, "-m", "pivot_jax.cli", "train", "--config", str(file), "--workdir", str(workdir)]
    environment = ONE_DEVICE | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for moment in np.geomspace(0.005, 8.0, 7):
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            time.sleep(moment)
            process.send_signal(number)
            sent = time.monotonic()
            _, err = process.communicate(timeout=60)
        assert ended_at_once(process, number, err, moment), err
        assert time.monotonic() - sent < 20
    done = subprocess.run(command, capture_output=True, env=environment, timeout=300)
    assert done.returncode == 0 and (workdir / "result.json").exists(), done.stderr
