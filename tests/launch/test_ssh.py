"""The ssh launcher through a real sshd on this machine where there is one, and through a stand-in for ssh."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pivot_jax.launch import storage
from tests.tiny.launches import check_script, launched, write

ROOT = Path(__file__).resolve().parents[2]
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
# As ssh does: options, a host, and words that the host's shell gets as one line.
SSH = """#!/bin/bash
while [ "$1" != -- ]; do shift; done
shift 2
exec bash -c "$*"
"""
# A training process: it says who it is, waits, and saves when it gets SIGTERM.
TRAIN = """#!/bin/bash
echo "$PIVOT_PROCESS_ID of $PIVOT_NUM_PROCESSES at $PIVOT_COORDINATOR gpus ${CUDA_VISIBLE_DEVICES:-all}"
trap 'sleep 0.3; echo saved; touch "$WORK/saved-$PIVOT_PROCESS_ID"; exit 143' TERM
%s
"""
WAITS = "while :; do sleep 0.1; done"


@pytest.fixture(params=["ssh", "sshd"])
def hosts(request, tmp_path, monkeypatch):
    """Environment in which ssh reaches this machine as localhost and 127.0.0.1."""
    monkeypatch.setattr(storage, "LOCAL", ())  # the tests' folders are below /tmp
    env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    if request.param == "ssh":
        write(tmp_path / "bin" / "ssh", SSH)
        yield env
    elif SSHD is None or os.geteuid():
        pytest.skip("no sshd that this user may start")
    else:
        process = start_sshd(tmp_path)
        yield env
        process.terminate()
        process.wait(30)
    for job in LAUNCHED:  # of a test that failed; its processes end with it
        job.kill()
    LAUNCHED.clear()


def start_sshd(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A daemon on a free port of this machine with keys of its own; ``tmp_path/bin/ssh`` knows port and key."""
    folder = tmp_path / "sshd"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "user.pub").rename(folder / "authorized")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
    options = (
        f"-p {port} -i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    )
    write(tmp_path / "bin" / "ssh", f'#!/bin/bash\nexec {shutil.which("ssh")} -F none -4 {options} "$@"\n')
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    raise AssertionError("sshd did not start")


def prepare(tmp_path: Path, program: str, setup: str = "", **options) -> Path:
    """Writes the scripts for two hosts, and a ``pivot-jax`` that is ``program``."""
    write(tmp_path / "venv" / "bin" / "pivot-jax", program)
    exports = f"export PATH={tmp_path}/venv/bin:$PATH WORK={tmp_path}\n{setup}"
    write(tmp_path / "venv" / "bin" / "activate", exports)
    given = {
        "hosts": ("localhost", "127.0.0.1"), "topology": "h200-1x2", "workdir": str(tmp_path / "work it's"),
        "venv": str(tmp_path / "venv"), "chdir": str(tmp_path), "grace": 60,
    }  # fmt: skip
    made = launched("ssh", **given | options)
    for text in made.contents.values():
        check_script(text)
    made.write(tmp_path / "out")
    return tmp_path / "out" / "run.sh"


LAUNCHED: list[subprocess.Popen[str]] = []


def launch(path: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    job = subprocess.Popen(
        ["bash", str(path)], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in background
    )  # fmt: skip
    LAUNCHED.append(job)
    return job


def lines_until(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return sorted(process.stdout.readline() for _ in range(count))


def test_each_process_gets_its_variables(hosts, tmp_path):
    job = launch(prepare(tmp_path, TRAIN % 'echo "$@"; ls -A "$(dirname "$3")"'), hosts)
    out, _ = job.communicate(timeout=300)
    assert job.returncode == 0, out
    for i in range(2):
        assert f"[{i}] {i} of 2 at localhost:8476 gpus all\n" in out
        assert f"[{i}] config.json\n" in out and f"--workdir {tmp_path}/work it's\n" in out
        assert (tmp_path / "work it's" / f"log-{i}.txt").read_text().startswith(f"{i} of 2")


def test_a_process_for_each_gpu(hosts, tmp_path):
    job = launch(prepare(tmp_path, TRAIN % "", topology="h200-2x2", per="gpu"), hosts)
    out, _ = job.communicate(timeout=300)
    assert job.returncode == 0, out
    assert [f"[{i}] {i} of 4 at localhost:8476 gpus {i % 2}\n" in out for i in range(4)] == [True] * 4, out


def test_one_failure_stops_the_others_which_save(hosts, tmp_path):
    job = launch(prepare(tmp_path, TRAIN % f'[ "$PIVOT_PROCESS_ID" = 1 ] && exit 7\n{WAITS}'), hosts)
    out, _ = job.communicate(timeout=300)
    assert job.returncode == 7, out
    assert "a process failed with exit code 7; stopping the others" in out and "[0] saved\n" in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_processes(hosts, tmp_path, number):
    job = launch(prepare(tmp_path, TRAIN % WAITS), hosts)
    assert [line[:9] for line in lines_until(job, 2)] == ["[0] 0 of ", "[1] 1 of "]
    job.send_signal(number)
    out, _ = job.communicate(timeout=300)
    assert job.returncode == 143 and "[0] saved\n" in out and "[1] saved\n" in out


def test_processes_save_when_the_launcher_is_killed(hosts, tmp_path):
    """As when the machine that it runs on, or the network, is gone."""
    job = launch(prepare(tmp_path, TRAIN % WAITS), hosts)
    lines_until(job, 2)
    job.kill()
    job.wait(60)
    wanted = [tmp_path / "saved-0", tmp_path / "saved-1"]
    for _ in range(600):
        if all(path.exists() for path in wanted):
            return
        time.sleep(0.1)
    raise AssertionError([path.name for path in wanted if not path.exists()])


def test_the_variables_join_jax(hosts, tmp_path):
    """Two processes with the launcher's variables start jax.distributed by parallel/hosts.py and sum over both."""
    program = (
        f"#!{sys.executable}\n"
        "import os, jax\nfrom jax.experimental import multihost_utils\nimport numpy as np\n"
        "from pivot_jax.parallel import hosts\n"
        "peers = hosts.start(120.0, 'test')\n"
        "total = multihost_utils.process_allgather(np.asarray(jax.process_index() + 1)).sum()\n"
        "os.write(1, f'\\nprocesses {jax.process_count()} sum {int(total)}\\n'.encode())\n"
        "peers.run(lambda: 0)\n"
    )
    setup = f"export PYTHONPATH={ROOT} JAX_PLATFORMS=cpu\n"
    job = launch(prepare(tmp_path, program, setup), hosts)
    out, _ = job.communicate(timeout=600)
    assert job.returncode == 0, out
    for i in range(2):
        assert f"[{i}] processes 2 sum 3" in out
