"""SLURM's job script with fake srun, scontrol, scancel: arguments, arrays, requeue after a saved stop, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from pivot_jax import config as configs
from pivot_jax.launch import storage
from tests.tiny.launches import check_script, launched, write

ODD = 'it\'s $(touch x) `y` "z"; a & b'  # every character that a shell reads


# srun without its options, which it prints: a task with a process group of its own, which scancel signals. Of a second
# task, the file "other" has the exit code: as with --kill-on-bad-exit, the first gets SIGTERM if that is not 0.
SRUN = """#!/bin/bash
here=$(dirname "$0")
while [[ $1 == -* ]]; do echo "srun $1"; shift; done
setsid "$@" &
echo "$!" > "$here/group"
code=0
[ -e "$here/other" ] && { sleep 1; code=$(cat "$here/other"); [ "$code" = 0 ] || kill -TERM -- "-$!"; }
wait "$!"
own=$?
exit $((own > code ? own : code))
"""
SCANCEL = """#!/bin/bash
here=$(dirname "$0")
echo "$@" >> "$here/signalled"
kill -TERM -- "-$(cat "$here/group")"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Environment of a job whose processes are ``tmp_path/pivot-jax``; ``scontrol`` records its arguments."""
    monkeypatch.setattr(storage, "LOCAL", ())  # the tests' folders are below /tmp
    write(tmp_path / "venv" / "bin" / "activate", f"export PATH={tmp_path}:$PATH\n")
    write(tmp_path / "srun", SRUN)
    write(tmp_path / "scancel", SCANCEL)
    write(tmp_path / "scontrol", f'#!/bin/bash\necho "$@" >> {tmp_path}/requested\n')
    return {**os.environ, "SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "64"}


def program(tmp_path: Path, text: str) -> None:
    write(tmp_path / "pivot-jax", f"#!/bin/bash\n{text}\n")


def script(tmp_path: Path, **options) -> Path:
    given = {"workdir": str(tmp_path / "work"), "venv": str(tmp_path / "venv"), "chdir": str(tmp_path)}
    text = launched("slurm", **given | options).contents["job.sh"]
    check_script(text)
    return write(tmp_path / "job.sh", text)


def submit(path: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(["bash", str(path)], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def directives(path: Path) -> dict[str, str]:
    """sbatch's options in a script. As sbatch does, reads up to the first line that is neither empty nor a comment."""
    found = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            break
        if line.startswith("#SBATCH --"):
            key, _, value = line.removeprefix("#SBATCH --").partition("=")
            found[key] = value
    return found


@pytest.mark.parametrize("code", [0, 1, 2])
def test_arguments_and_exit_code_pass_through(cluster, tmp_path, code):
    program(tmp_path, f'echo "$PIVOT_DISTRIBUTED $JAX_LOCAL_DEVICE_IDS $SRUN_CPUS_PER_TASK $@"; exit {code}')
    job = submit(script(tmp_path), cluster)
    out, _ = job.communicate(timeout=60)
    work = tmp_path / "work"
    assert job.returncode == code
    assert "srun --kill-on-bad-exit=1\nsrun --gpu-bind=none\n" in out
    assert f"auto 0,1,2,3,4,5,6,7 64 train --config {work}/.launch.json --workdir {work}\n" in out
    assert json.loads((work / ".launch.json").read_text()) == json.loads(
        configs.to_json(configs.load("pivot/stage2_dpo.py"))
    )
    assert [path.name for path in work.iterdir()] == [".launch.json"]
    assert not (tmp_path / "requested").exists()


def test_values_are_quoted(cluster, tmp_path):
    """Nothing in them is run, and each stays one word."""
    program(tmp_path, 'printf "<%s>" "$PWD" "$@"')
    folder = tmp_path / ODD
    folder.mkdir()
    job = submit(script(tmp_path, workdir=f"{folder}/work", chdir=str(folder)), cluster)
    out, _ = job.communicate(timeout=60)
    assert f"<{folder}><train>" in out and out.endswith(f"<--workdir><{folder}/work>")
    assert sorted(path.name for path in folder.iterdir()) == ["work"] and not (tmp_path / "x").exists()


def test_nodes_and_gpus_are_the_hardwares(cluster, tmp_path):
    found = directives(script(tmp_path, topology="h200-8x4", sbatch=("partition=gpu", "time=1:00:00", "exclusive")))
    assert (found["nodes"], found["ntasks-per-node"], found["gpus-per-node"], found["cpus-per-task"]) == (
        "4",
        "1",
        "8",
        "64",
    )
    assert found["signal"] == "TERM@300" and "requeue" in found and found["open-mode"] == "append"
    assert (found["partition"], found["time"], found["exclusive"]) == ("gpu", "1:00:00", "")
    found = directives(script(tmp_path, topology="h200-8x4", per="gpu"))
    assert (found["nodes"], found["ntasks-per-node"], found["gpus-per-node"], found["cpus-per-task"]) == (
        "4",
        "8",
        "8",
        "8",
    )
    assert "JAX_LOCAL_DEVICE_IDS" not in (tmp_path / "job.sh").read_text()


def test_an_array_runs_each_value_in_its_own_folder(cluster, tmp_path):
    program(tmp_path, 'echo "$@"; exit 143')
    path = script(
        tmp_path, array=("objective.beta", "0.05", "0.1"), setup=str(write(tmp_path / "s.sh", "echo setup\n"))
    )
    assert directives(path)["array"] == "0-1" and directives(path)["output"] == "stage2-dpo-%A_%a.log"
    for task, beta in enumerate(("0.05", "0.1")):
        job = submit(path, cluster | {"SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": str(task)})
        out, _ = job.communicate(timeout=60)
        work = tmp_path / "work" / f"objective.beta-{beta}"
        assert f"--config {work}/.launch.json --workdir {work} --config.objective.beta={beta}\n" in out
        assert out.startswith("setup\n") and job.returncode == 0
    assert (tmp_path / "requested").read_text() == "requeue 16_0\nrequeue 16_1\n"


def test_time_limit_requeues(cluster, tmp_path):
    """SLURM signals the processes; they save and end with 143."""
    program(tmp_path, "exit 143")
    job = submit(script(tmp_path), cluster)
    out, _ = job.communicate(timeout=60)
    assert job.returncode == 0 and "requeued" in out
    assert (tmp_path / "requested").read_text() == "requeue 17\n"
    assert [path.name for path in (tmp_path / "work").iterdir()] == [".launch.json"]


SAVES = "trap 'sleep 0.5; echo saved; exit 143' TERM\necho ready\nwhile :; do sleep 0.1; done"


def test_preemption_reaches_the_processes_which_may_save(cluster, tmp_path):
    program(tmp_path, SAVES)
    job = submit(script(tmp_path), cluster)
    assert job.stdout is not None
    while job.stdout.readline() != "ready\n":
        pass
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate(timeout=60)
    assert "saved" in out and job.returncode == 0
    assert (tmp_path / "signalled").read_text() == "--signal=TERM 17\n"
    assert (tmp_path / "requested").read_text() == "requeue 17\n"


def test_a_failure_does_not_requeue_though_srun_stops_the_others(cluster, tmp_path):
    """They save and end with 143, too; requeued, the job would fail again for ever."""
    program(tmp_path, SAVES)
    (tmp_path / "other").write_text("1")
    job = submit(script(tmp_path), cluster)
    out, _ = job.communicate(timeout=60)
    assert "saved" in out and job.returncode == 1
    assert not (tmp_path / "requested").exists()


def test_one_that_saves_later_is_not_ended_by_one_that_saved(cluster, tmp_path):
    """To srun a process that saved is no failure, after which it would end the others."""
    program(tmp_path, "exit 143")
    (tmp_path / "other").write_text("0")
    job = submit(script(tmp_path), cluster)
    job.communicate(timeout=60)
    assert job.returncode == 0 and (tmp_path / "requested").read_text() == "requeue 17\n"
