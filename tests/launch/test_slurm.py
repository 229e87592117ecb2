"""The SLURM script with fake srun and scontrol: arguments, requeue after a saved stop, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "slurm.sh"


@pytest.fixture
def cluster(tmp_path):
    """Environment in which ``srun`` runs ``tmp_path/step`` and ``scontrol`` records its arguments."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text(f"export PATH={tmp_path}:$PATH\n")
    tools = {"srun": f'exec bash {tmp_path}/step "$@"', "scontrol": f'echo "$@" >> {tmp_path}/requested'}
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return dict(os.environ, PIVOT_VENV=str(tmp_path / "venv"), SLURM_JOB_ID="17")


def submit(env: dict[str, str], *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT), *args], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.parametrize("code", [0, 1, 2])
def test_arguments_and_exit_code_pass_through(cluster, tmp_path, code):
    (tmp_path / "step").write_text(f'echo "$PIVOT_DISTRIBUTED $@"; exit {code}\n')
    job = submit(cluster, "train", "--workdir", "a b")
    out, _ = job.communicate(timeout=30)
    assert job.returncode == code
    assert "auto --kill-on-bad-exit=1 --gpu-bind=none pivot-jax train --workdir a b" in out
    assert not (tmp_path / "requested").exists()


def test_time_limit_requeues(cluster, tmp_path):
    """SLURM signals the step; the run saves and ends with 143."""
    (tmp_path / "step").write_text("exit 143\n")
    job = submit(cluster, "train")
    job.communicate(timeout=30)
    assert job.returncode == 0
    assert (tmp_path / "requested").read_text() == "requeue 17\n"


def test_preemption_reaches_the_step_which_may_save(cluster, tmp_path):
    step = "trap 'sleep 0.5; echo saved; exit 143' TERM\necho ready\nwhile :; do sleep 0.1; done\n"
    (tmp_path / "step").write_text(step)
    job = submit(cluster, "train")
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate(timeout=30)
    assert "saved" in out and job.returncode == 0
    assert (tmp_path / "requested").read_text() == "requeue 17\n"


def test_without_a_command_it_prints_its_usage(cluster):
    job = submit(cluster)
    out, _ = job.communicate(timeout=30)
    assert job.returncode == 2 and "usage: sbatch" in out
