"""A config with the machines that are to run it, checked."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import AbstractMesh, AxisType

from pivot_jax import config as configs
from pivot_jax.data.loading.schedule import local_slice
from pivot_jax.errors import UserError
from pivot_jax.launch import machines as kinds
from pivot_jax.launch import storage as storages
from pivot_jax.launch.machines import Machines
from pivot_jax.launch.options import Options
from pivot_jax.launch.storage import Storage
from pivot_jax.objectives.table import batch_kind
from pivot_jax.parallel.mesh import AXES, axis_over_slices, mesh_sizes
from pivot_jax.train.setup import check_batch, rows_of_step
from pivot_jax.words import counted

PORT = 8476  # of the coordinator, process 0
_LONGEST_NAME = 40  # Kubernetes appends indices, and a host's name has 63 characters


@dataclass(frozen=True)
class Job:
    """What a target turns into files."""

    name: str  # as Kubernetes and the clouds allow names
    config: Any
    machines: Machines
    storage: Storage
    processes: int
    mesh: tuple[int, ...]
    options: Options

    @property
    def processes_per_host(self) -> int:
        return self.processes // self.machines.all_hosts

    @property
    def grace(self) -> int:
        """Seconds from the signal to the end, for a checkpoint."""
        return self.options.grace

    def config_text(self) -> str:
        """The complete config, a line for each section, with a newline at the end."""
        content = json.loads(configs.to_json(self.config))
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        return f"{{{lines}}}\n"

    def train(self, config: str) -> list[str]:
        """Words of the command that trains, with the config's path on the machines."""
        return ["pivot-jax", "train", "--config", config, "--workdir", self.storage.workdir]

    def summary(self) -> str:
        """One line of what is asked for."""
        mesh = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, self.mesh, strict=True))
        rows = rows_of_step(self.config) // self.config.train.accumulate
        share = rows / (self.mesh[0] * self.mesh[1])
        processes = counted(self.processes, "process", "processes")
        return (
            f"{self.name} on {self.options.to}: {self.machines.words()}; {processes}, mesh {mesh}, {share:g} of the "
            f"{rows} rows of a micro-batch on each shard"
        )


def build(config: Any, options: Options) -> Job:
    """The job of a checked config.

    Raises:
      UserError: a combination that cannot work; the message names the options or keys, and the fix.
    """
    options.check()
    machines = kinds.choose(options.to, options.topology, config.hardware)
    storage = storages.of(options)
    storages.check_paths(config, storage)
    processes = machines.all_hosts * (machines.chips if options.per == "gpu" else 1)
    sizes = check_parts(config, machines, processes)
    return Job(
        _name(options.name or config.name, bool(options.name)), config, machines, storage, processes, sizes, options
    )


def check_parts(config: Any, machines: Machines, processes: int) -> tuple[int, ...]:
    """The mesh of a config on these machines; raises UserError where mesh, batch or settings do not fit them."""
    try:
        sizes = mesh_sizes(config.parallel, machines.devices)
        if machines.slices > 1:
            axis_over_slices(sizes, machines.slices)
        mesh = AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3)
        check_batch(config, mesh, processes)
        packing = 1 if batch_kind(config) == "policy" else config.data.packing
        local_slice(config.data.batch_size, 0, processes, packing)
    except UserError as error:
        raise UserError(f"{machines.named.text} ({counted(machines.devices, 'device')}): {error}") from None
    if processes > 1:
        _check_processes(config, processes)
    return sizes


def _check_processes(config: Any, processes: int) -> None:
    """Raises UserError for what only a run of one process can do."""
    if batch_kind(config) == "policy" and config.rl.engine == "vllm":
        raise UserError(
            f"rl.engine: this job has {processes} processes, and a run of several cannot sample with vLLM; set it to "
            "jax, or take a single host"
        )


def _name(text: str, given: bool) -> str:
    """A name of lower-case letters, digits and dashes; one that the user gave has to be one already."""
    good = re.compile(rf"[a-z]([a-z0-9-]{{0,{_LONGEST_NAME - 2}}}[a-z0-9])?")
    if given and not good.fullmatch(text):
        raise UserError(
            f"--name {text}: write lower-case letters, digits and dashes, a letter first, {_LONGEST_NAME} at most"
        )
    made = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST_NAME].strip("-")
    return made if good.fullmatch(made) else f"run-{made}"[:_LONGEST_NAME].strip("-")


def default_venv(options: Options, folder: Path) -> str:
    """Folder of the Python environment on machines with a shared file system."""
    venv = options.venv or str(folder / ".venv")
    if not posixpath.isabs(venv):
        raise UserError(f"--venv {venv}: write the absolute path of the environment on the machines")
    return venv
