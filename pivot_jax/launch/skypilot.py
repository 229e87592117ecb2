"""A task of SkyPilot, for ``sky jobs launch``: a managed job is started again after a preemption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pivot_jax.launch.gke import as_yaml
from pivot_jax.launch.job import PORT, Job
from pivot_jax.launch.machines import RUNTIMES, SKY_GPUS
from pivot_jax.launch.options import RESTARTS
from pivot_jax.launch.shell import script
from pivot_jax.launch.tpu import checked_image

FILE = "task.yaml"


def generate(job: Job) -> dict[str, str]:
    """Files by name."""
    storage = job.storage
    task: dict[str, Any] = {
        "name": job.name,
        "resources": _resources(job),
        "num_nodes": 1 if job.machines.tpu else job.machines.hosts,  # the hosts of a TPU are one node
        "file_mounts": {storage.mount: {"source": storage.url, "mode": "MOUNT"}},
    }
    if setup := job.options.setup_lines():
        task["setup"] = setup
    task["run"] = script(
        "skypilot_run.sh.jinja",
        config=job.config_text(),
        tpu=job.machines.tpu,
        several=job.processes > 1,
        port=PORT,
        chdir=storage.chdir,
        workdir=storage.workdir,
    )
    return {FILE: as_yaml([task])}


def commands(job: Job, folder: str) -> list[Sequence[str]]:
    return [["sky", "jobs", "launch", "--name", job.name, f"{folder}/{FILE}"]]


def _resources(job: Job) -> dict[str, Any]:
    named, options = job.machines.named, job.options
    found: dict[str, Any] = {}
    if job.machines.tpu:
        family = "v5litepod" if named.accelerator == "v5e" else named.accelerator
        found |= {"infra": "gcp", "accelerators": f"tpu-{family}-{named.number}"}
        found["accelerator_args"] = {"runtime_version": RUNTIMES[named.accelerator]}
    else:
        found["accelerators"] = f"{SKY_GPUS[named.accelerator]}:{job.machines.chips}"
    found["image_id"] = f"docker:{checked_image(options.image or '')}"
    if options.spot:
        found["use_spot"] = True
    restarts = RESTARTS if options.restarts is None else options.restarts
    # Exit codes are no reason by themselves: where one node fails, SkyPilot stops the others by a signal.
    found["job_recovery"] = {"max_restarts_on_errors": restarts}
    return found
