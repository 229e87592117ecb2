"""Processes that watch each other: real ones, which train nothing. Runs under torture are in tests/torture."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from pivot_jax.parallel.peers import BROKEN_S, Silence
from tests.tiny.processes import free_port

# What each process does, by its number, once all have found each other.
CODE = """
import sys, time
from pivot_jax.errors import UserError
from pivot_jax.parallel import hosts
def fails(error): raise error
peers = hosts.start(5.0, "train")
print("together", flush=True)
sys.exit(peers.run(lambda: {work}))
"""
WAITS = "time.sleep(600)"


class Group:
    """Processes that do ``works``."""

    def __init__(self, *works: str):
        port, count = free_port(), len(works)
        self.processes = []
        for number, work in enumerate(works):
            own = {"PIVOT_COORDINATOR": f"127.0.0.1:{port}", "PIVOT_NUM_PROCESSES": f"{count}"}
            own |= {"PIVOT_PROCESS_ID": f"{number}", "JAX_PLATFORMS": "cpu"}
            command = [sys.executable, "-c", CODE.format(work=work)]
            pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.processes.append(subprocess.Popen(command, env=os.environ | own, **pipes))
        for process in self.processes:
            assert process.stdout.readline() == "together\n", process.communicate()[1]

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def ended(self, number: int, limit: float = 120) -> tuple[int, str]:
        """(exit code, last line on stderr)."""
        err = self.processes[number].communicate(timeout=limit)[1]
        return self.processes[number].returncode, (err.splitlines() or [""])[-1]


def test_processes_that_finish_wait_for_the_last_one():
    with Group("time.sleep(3) or 0", "0") as group:
        assert group.ended(1) == (0, "") and group.processes[0].wait(30) == 0


def test_a_process_that_fails_tells_the_others_why():
    with Group(WAITS, WAITS, "fails(UserError('the disk is full'))") as group:
        assert group.ended(2) == (1, "train: the disk is full")
        told = (1, "train: process 2 of 3: the disk is full")
        assert group.ended(0) == told and group.ended(1) == told


def test_a_bug_keeps_its_traceback_and_ends_the_others():
    with Group("fails(TypeError('no'))", WAITS) as group:
        assert "process 0 of 2 failed: TypeError: no" in group.ended(1)[1]
        code, line = group.ended(0)
        assert code == 1 and "process 0 of 2 failed: TypeError: no" in line


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_without_an_answer_is_named(victim, number):
    with Group(WAITS, WAITS) as group:
        began = time.monotonic()
        group.processes[victim].send_signal(number)
        code, line = group.ended(1 - victim)
        assert code != 0 and "start all processes again" in line, line
        # JAX aborts the others at once where process 0 is killed; a line of our own then names no other.
        if (victim, number) != (0, signal.SIGKILL):
            assert f"no answer for 5 s from process {victim} of 2" in line, line
        assert time.monotonic() - began < 60


def test_silence_does_not_count_while_this_process_does_not_run(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    silence = Silence(0, 3)
    for second in range(20):
        now[0] += 1
        silence.note({"1": f"{second} host", "2": "0 far, pid 7"})
    assert silence.longer_than(BROKEN_S) == {2: "far, pid 7"} and silence.named == {"2"}
    now[0] += 500
    silence.note({"1": "19 host", "2": "1 far, pid 7"})
    assert silence.longer_than(BROKEN_S) == {}
