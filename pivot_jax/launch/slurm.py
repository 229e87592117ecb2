"""A job script for SLURM, or a job array over the values of a key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pivot_jax import config as configs
from pivot_jax.errors import UserError
from pivot_jax.launch.job import Job, check_parts, default_venv
from pivot_jax.launch.shell import script

FILE = "job.sh"
# What follows from the config's hardware and from how the script stops.
_OURS = ("nodes", "ntasks", "ntasks-per-node", "gpus", "gpus-per-node", "array", "requeue", "no-requeue", "signal",
         "open-mode", "job-name", "chdir")  # fmt: skip
_CPUS_PER_GPU = 8
_VALUE = re.compile(r"[\w.,:/@%+=-]+", re.ASCII)


def generate(job: Job) -> dict[str, str]:
    """Files by name. Raises UserError for options that sbatch or the config would not take."""
    options, machines = job.options, job.machines
    folder = Path.cwd()
    all_gpus = ",".join(map(str, range(machines.chips))) if job.processes_per_host == 1 else ""
    text = script(
        "slurm.sh.jinja",
        machines=machines.words(),
        directives=_directives(job),
        chdir=job.storage.chdir or str(folder),
        setup=options.setup_lines(),
        venv=default_venv(options, folder),
        workdir=job.storage.workdir,
        array=_array(job),
        config=job.config_text(),
        devices=all_gpus,
    )
    return {FILE: text}


def commands(job: Job, folder: str) -> list[Sequence[str]]:
    return [["sbatch", f"{folder}/{FILE}"]]


def _directives(job: Job) -> dict[str, str | None]:
    """Options of sbatch with their values; None: without one."""
    number = "%A_%a" if job.options.array else "%j"
    found: dict[str, str | None] = {
        "job-name": job.name,
        "nodes": str(job.machines.hosts),
        "ntasks-per-node": str(job.processes_per_host),
        "gpus-per-node": str(job.machines.chips),
        "cpus-per-task": str(_CPUS_PER_GPU * job.machines.chips // job.processes_per_host),
        "requeue": None,
        "open-mode": "append",
        "signal": f"TERM@{job.grace}",
        "output": f"{job.name}-{number}.log",
        "time": "24:00:00",
        "mem": "0",
    }
    if job.options.array:
        found["array"] = f"0-{len(job.options.array) - 2}"
    for word in job.options.sbatch:
        key, equals, value = word.partition("=")
        key = key.removeprefix("--")
        if not re.fullmatch(r"[a-z][a-z0-9-]+", key) or (equals and not _VALUE.fullmatch(value)):
            raise UserError(f"--sbatch {word}: write an option of sbatch as NAME=VALUE, such as partition=gpu")
        if key in _OURS:
            raise UserError(
                f"--sbatch {word}: '{key}' follows from the config and from the other options; leave it out"
            )
        found[key] = value if equals else None
    return found


def _array(job: Job) -> list[tuple[str, tuple[str, ...]]]:
    """(folder in the workdir, further words of the command) of each task; [] for a single job.

    Raises:
      UserError: fewer than two values, one twice, or one that the config does not take.
    """
    if not job.options.array:
        return []
    key, *values = job.options.array
    if len(values) < 2 or len(set(values)) < len(values):
        raise UserError(
            f"--array {' '.join(job.options.array)}: write a key and two or more different values, such as seed 0 1 2"
        )
    tasks: list[tuple[str, tuple[str, ...]]] = []
    for value in values:
        changed = configs.from_json(configs.to_json(job.config))
        configs.set_key(changed, key, value)
        configs.validate(changed)
        check_parts(changed, job.machines, job.processes)
        tasks.append((re.sub(r"[^\w.+-]+", "_", f"{key}-{value}", flags=re.ASCII), (f"--config.{key}={value}",)))
    if len({label for label, _ in tasks}) < len(tasks):
        raise UserError(
            f"--array {' '.join(job.options.array)}: two values would share a folder; launch them one by one"
        )
    return tasks
