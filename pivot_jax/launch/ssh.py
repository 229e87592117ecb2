"""A script that starts one process on each host, or for each GPU, over ssh."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pivot_jax.errors import UserError
from pivot_jax.launch.job import PORT, Job, default_venv
from pivot_jax.launch.shell import script
from pivot_jax.words import counted

RUN, HOST = "run.sh", "host.sh"
_HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?(?P<address>[A-Za-z0-9][A-Za-z0-9._-]*|\[?[0-9a-fA-F:]+\]?)")


def generate(job: Job) -> dict[str, str]:
    """Files by name. Raises UserError for hosts that are not as many as the hardware's nodes, or no names."""
    hosts, machines, folder = job.options.hosts, job.machines, Path.cwd()
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise UserError(f"--hosts {host}: not a host; write names or addresses, perhaps with USER@ before them")
    if len(set(hosts)) < len(hosts):
        raise UserError(
            f"--hosts {' '.join(hosts)}: a host is repeated; name each once (--per gpu starts a process per GPU)"
        )
    if len(hosts) != machines.hosts:
        raise UserError(
            f"--hosts: {counted(len(hosts), 'host')}, but {machines.words()}; name as many, or write --topology "
            f"{machines.named.accelerator}-{machines.chips}{f'x{len(hosts)}' if len(hosts) > 1 else ''}"
        )
    run = script(
        "ssh.sh.jinja",
        machines=machines.words(),
        grace=job.grace,
        coordinator=f"{_address(hosts[0])}:{PORT}",
        starts=[(host, gpus) for host in hosts for gpus in _gpus(job)],
    )
    host_script = script(
        "ssh_host.sh.jinja",
        chdir=job.storage.chdir or str(folder),
        setup=job.options.setup_lines(),
        venv=default_venv(job.options, folder),
        config=job.config_text(),
        workdir=job.storage.workdir,
    )
    return {RUN: run, HOST: host_script}


def commands(job: Job, folder: str) -> list[Sequence[str]]:
    return [["bash", f"{folder}/{RUN}"]]


def _gpus(job: Job) -> list[str]:
    """The GPUs of each process of a host; "": all."""
    if job.processes_per_host == 1:
        return [""] if job.options.per != "gpu" else ["0"]
    return [str(i) for i in range(job.machines.chips)]


def _address(host: str) -> str:
    """Of the first host, as the others reach it."""
    address = host.rpartition("@")[2].strip("[]")
    return f"[{address}]" if ":" in address else address
