"""TPU queued resources: the request and its repetition by a gcloud that checks its flags, the script of a VM."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.tiny.launches import GCLOUD, IMAGE, launched, write


@pytest.fixture
def cloud(tmp_path):
    """Environment whose gcloud keeps a queued resource in ``tmp_path/bin/state``."""
    write(tmp_path / "bin" / "gcloud", GCLOUD)
    return {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


def submit(tmp_path: Path, env: dict[str, str], **options) -> subprocess.CompletedProcess[str]:
    launched("tpu", **options).write(tmp_path / "out")
    command = ["bash", str(tmp_path / "out" / "submit.sh")]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def calls(tmp_path: Path) -> list[list[str]]:
    return [json.loads(line)[3:] for line in (tmp_path / "bin" / "calls").read_text().splitlines()]


def test_the_request(cloud, tmp_path):
    done = submit(tmp_path, cloud, spot=True, project="lab-1", service_account="me@lab.iam.gserviceaccount.com")
    assert done.returncode == 0, done.stderr
    assert calls(tmp_path)[-1] == [
        "create", "stage2-dpo", "--zone=us-east5-a", "--project=lab-1", "--node-id=stage2-dpo",
        "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite",
        "--service-account=me@lab.iam.gserviceaccount.com", "--spot",
        f"--metadata-from-file=startup-script={tmp_path}/out/startup.sh",
    ]  # fmt: skip


def test_several_slices(cloud, tmp_path):
    done = submit(tmp_path, cloud, keys={"parallel.data": 2}, topology="v5p-32x2", name="big")
    assert done.returncode == 0, done.stderr
    assert {"--node-count=2", "--node-prefix=big", "--accelerator-type=v5p-32"} <= set(calls(tmp_path)[-1])


@pytest.mark.parametrize(
    ("state", "verbs"),
    [
        ("ACTIVE", ["describe"]),
        ("WAITING_FOR_RESOURCES", ["describe"]),
        ("SUSPENDED", ["describe", "delete", "create"]),
        ("FAILED", ["describe", "delete", "create"]),
    ],
)
def test_the_same_command_requests_again_what_was_taken_away(cloud, tmp_path, state, verbs):
    (tmp_path / "bin" / "state").write_text(state)
    done = submit(tmp_path, cloud)
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in calls(tmp_path)] == verbs
    assert state in done.stdout


# Commands of a TPU VM that write down how they were called; systemctl says whether the service runs.
VM = '#!/bin/bash\n(printf "%s" "$(basename "$0")"; printf " <%s>" "$@"; echo) >> "$VM/calls"\n'


@pytest.fixture
def vm(tmp_path):
    for name in ("gcsfuse", "mountpoint", "docker", "gcloud", "systemd-run", "systemctl", "mkdir", "apt-get"):
        fails = "exit 1\n" if name in ("systemctl", "mountpoint") else ""
        write(tmp_path / "vm" / name, VM + fails)
    return {**os.environ, "PATH": f"{tmp_path}/vm:{os.environ['PATH']}", "VM": str(tmp_path / "vm")}


def boot(tmp_path: Path, env: dict[str, str], **options) -> list[str]:
    """What a VM's startup script calls, with the config below ``tmp_path``."""
    text = launched("tpu", **options).contents["startup.sh"].replace("/opt/pivot-jax", f"{tmp_path}/opt")
    (tmp_path / "opt").mkdir(exist_ok=True)
    done = subprocess.run(["bash"], input=text, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return (tmp_path / "vm" / "calls").read_text().splitlines()


def test_a_boot_mounts_the_bucket_and_trains(vm, tmp_path):
    found = boot(tmp_path, vm, grace=600)
    assert "gcsfuse <--implicit-dirs> <--rename-dir-limit=200000> <lab-bucket> </mnt/lab-bucket>" in found
    assert "gcloud <auth> <configure-docker> <--quiet> <us-docker.pkg.dev>" in found
    assert f"docker <pull> <{IMAGE}>" in found
    service = found[-1]
    assert service.startswith("systemd-run <--unit=pivot-jax>") and "<--property=TimeoutStopSec=600>" in service
    assert "<--property=Restart=on-failure> <--property=RestartPreventExitStatus=2>" in service
    assert "<--env=PIVOT_DISTRIBUTED=auto>" in service and "<--volume=/mnt/lab-bucket:/mnt/lab-bucket>" in service
    words = f"<{IMAGE}> <train> <--config> <{tmp_path}/opt/config.json> <--workdir> </mnt/lab-bucket/runs/x>"
    assert service.endswith(words)
    assert json.loads((tmp_path / "opt" / "config.json").read_text())["name"] == "stage2_dpo"


def test_a_single_host_needs_no_other(vm, tmp_path):
    assert "PIVOT_DISTRIBUTED" not in boot(tmp_path, vm, topology="v6e-8")[-1]


def test_a_running_service_is_left_alone(vm, tmp_path):
    write(tmp_path / "vm" / "systemctl", VM)
    assert boot(tmp_path, vm) == ["systemctl <is-active> <--quiet> <pivot-jax>"]


def test_a_file_system_of_ones_own(vm, tmp_path):
    """``--setup`` mounts it; the container gets the folders of the run and of the data."""
    setup = write(tmp_path / "setup.sh", "docker mounted\n")
    found = boot(tmp_path, vm, workdir="/nfs/runs/x", chdir="/nfs/work", setup=str(setup))
    assert "docker <mounted>" in found and not any(call.startswith("gcsfuse") for call in found)
    assert "<--volume=/nfs/runs:/nfs/runs> <--volume=/nfs/work:/nfs/work>" in found[-1]
    assert "<--workdir=/nfs/work>" in found[-1] and found[-1].endswith("<--workdir> </nfs/runs/x>")
