"""The local launcher: environment, prefixes, exit codes, stopping the others, signals, and a real collective."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LAUNCHER = Path(__file__).resolve().parents[2] / "launch" / "local.py"


def launch(code: str, *options: str) -> list[str]:
    return [sys.executable, str(LAUNCHER), *options, "--", sys.executable, "-c", code]


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(launch(code, *options), capture_output=True, text=True, timeout=120)


def test_environment_and_prefix():
    code = "import os; e = os.environ; print(e['PIVOT_PROCESS_ID'], e['PIVOT_NUM_PROCESSES'], e['PIVOT_COORDINATOR'])"
    done = run(code, "--processes", "3", "--port", "4321")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:3]) == [f"[{i}] {i} 3 127.0.0.1:4321" for i in range(3)]


def test_one_failure_stops_the_other_processes():
    code = "import os, sys, time\nif os.environ['PIVOT_PROCESS_ID'] == '1': sys.exit(7)\ntime.sleep(100)"
    begin = time.monotonic()
    done = run(code)
    assert done.returncode == 7
    assert "process 1 failed with exit code 7; stopping the others" in done.stderr
    assert time.monotonic() - begin < 30


def test_signal_reaches_every_process():
    code = (
        "import signal, sys, time\n"
        "def stop(*_): print('saved', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('ready', flush=True); time.sleep(100)"
    )
    with subprocess.Popen(launch(code), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] ready\n", "[1] ready\n"]
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(30) == 0
    assert sorted(rest.splitlines()) == ["[0] saved", "[1] saved"]


def test_a_missing_command_prints_one_line():
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), "--", "no-such-command"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "launch/local.py: cannot run no-such-command: No such file or directory"


def test_wrong_usage_exits_with_2():
    assert subprocess.run([sys.executable, str(LAUNCHER)], capture_output=True, timeout=60).returncode == 2


def test_gloo_sums_over_processes():
    """The CPU backend of two processes has four devices and sums over them."""
    code = (
        "import os, jax, jax.numpy as jnp\n"
        "from jax.experimental import multihost_utils\n"
        "at, count, index = (os.environ['PIVOT_' + key] for key in ('COORDINATOR', 'NUM_PROCESSES', 'PROCESS_ID'))\n"
        "jax.distributed.initialize(at, int(count), int(index))\n"
        "total = multihost_utils.process_allgather(jnp.asarray(jax.process_index() + 1)).sum()\n"
        # one write, on a line of its own: gloo's output can end in the middle of a line
        "os.write(1, f'\\ndevices {jax.device_count()} sum {int(total)}\\n'.encode())"
    )
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = launch(code, "--processes", "2", "--devices", "2")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    for i in range(2):
        assert f"[{i}] devices 4 sum 3" in done.stdout
