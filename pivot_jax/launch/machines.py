"""The machines that a topology's name stands for, and which of them a target has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pivot_jax.errors import UserError
from pivot_jax.plan import topology
from pivot_jax.plan.topology import Name
from pivot_jax.words import counted

EXAMPLE = {"slurm": "h100-8", "ssh": "h100-8", "tpu": "v5e-16", "gke": "v5e-16 or h100-8", "skypilot": "h100-8"}
# How a target names accelerators; one that is missing it does not have.
GPU_LABELS = {  # cloud.google.com/gke-accelerator
    "a100": "nvidia-a100-80gb",
    "b200": "nvidia-b200",
    "h100": "nvidia-h100-80gb",
    "h200": "nvidia-h200-141gb",
    "l4": "nvidia-l4",
}
TPU_LABELS = {  # cloud.google.com/gke-tpu-accelerator
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "7x": "tpu7x",
}
RUNTIMES = {  # versions of a TPU VM's software
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
SKY_GPUS = {
    "a100": "A100-80GB",
    "b200": "B200",
    "gh200": "GH200",
    "h100": "H100",
    "h200": "H200",
    "l4": "L4",
    "l40s": "L40S",
}
SKY_TPUS = ("v4", "v5e", "v5p", "v6e")
_GPUS_SOLD = (1, 2, 4, 8)  # of a cloud's machine


@dataclass(frozen=True)
class Machines:
    """Hosts with their devices, as JAX sees them in a running program."""

    named: Name
    hosts: int  # of one slice of TPUs; of all machines with GPUs
    chips: int  # of a host

    @property
    def tpu(self) -> bool:
        return bool(self.named.sides)

    @property
    def slices(self) -> int:
        """Of TPUs; GPU machines are one slice."""
        return self.named.slices if self.tpu else 1

    @property
    def all_hosts(self) -> int:
        return self.hosts * self.slices

    @property
    def devices(self) -> int:
        chip = self.named.chip
        per_chip = 1 if chip is None or chip.fused else chip.devices_per_chip
        return self.all_hosts * self.chips * per_chip

    def words(self) -> str:
        """``"v6e-16x2: 2 slices of 4 hosts with 4 chips"``."""
        if not self.tpu:
            return f"{self.named.text}: {counted(self.hosts, 'node')} with {counted(self.chips, 'GPU')}"
        hosts = f"{counted(self.hosts, 'host')} with {counted(self.chips, 'chip')}"
        return f"{self.named.text}: " + (f"{self.slices} slices of {hosts}" if self.slices > 1 else hosts)


def of(name: str) -> Machines:
    """The machines of a topology's name; raises as :func:`pivot_jax.plan.topology.parse`.

    A host has four chips of a TPU. Of v5e and v6e, whose slices are flat, one host has up to eight where they are the
    whole slice.
    """
    named = topology.parse(name)
    if not named.sides:
        return Machines(named, named.slices, named.number)
    flat = named.sides.count("x") == 1
    if named.chips <= (8 if flat else 4):
        return Machines(named, 1, named.chips)
    return Machines(named, named.chips // 4, 4)


def choose(to: str, topology_name: str, hardware: Sequence[str]) -> Machines:
    """The machines of ``--topology``, or the first of the config's hardware that the target has.

    Raises:
      UserError: no hardware named, or none that the target has.
    """
    names = [topology_name] if topology_name else list(hardware)
    if not names:
        raise UserError(f"hardware: empty, so nothing says what to ask for; name it with --topology {EXAMPLE[to]}")
    found = [of(name) for name in names]
    reasons = [lacking(to, machines) for machines in found]
    for machines, reason in zip(found, reasons, strict=True):
        if not reason:
            return machines
    where = "--topology" if topology_name else "hardware"
    said = "; ".join(f"{name} {reason}" for name, reason in zip(names, reasons, strict=True))
    raise UserError(f"{where}: {said}; write --topology {EXAMPLE[to]}, or another --to")


def lacking(to: str, machines: Machines) -> str:
    """Why a target cannot give these machines; "" where it can."""
    named = machines.named
    if to in ("slurm", "ssh"):
        return "is a TPU, which --to gke, tpu and skypilot ask for" if machines.tpu else ""
    if to == "tpu":
        if not machines.tpu:
            return "is no TPU"
        return "" if named.accelerator in RUNTIMES else "is to be had on GKE only (--to gke)"
    if to == "gke":
        if named.accelerator not in (GPU_LABELS | TPU_LABELS):
            return "is not among GKE's machines"
        several = machines.slices > 1 and machines.hosts == 1
        return "is several slices of one host each, which GKE does not join" if several else ""
    return _lacking_sky(machines)


def _lacking_sky(machines: Machines) -> str:
    named = machines.named
    if named.accelerator not in (*SKY_GPUS, *SKY_TPUS):
        return "is unknown to SkyPilot"
    if machines.slices > 1:
        return "is several slices, which SkyPilot does not join (--to gke and tpu do)"
    if not machines.tpu and machines.chips not in _GPUS_SOLD:
        return f"has {machines.chips} GPUs, and clouds have machines of {', '.join(map(str, _GPUS_SOLD))}"
    return ""
