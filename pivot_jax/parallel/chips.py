"""Accelerators by name, with the figures that plans and throughput are compared with."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Chip:
    """One device of a program; figures are from the makers' data sheets.

    The outer bandwidth of a v5e and a v6e is their pod's, divided by its 256 chips; that of a GPU is one port of
    400 Gbit/s.
    """

    kind: str  # jax's device kind
    hbm_gib: float  # memory for programs, as XLA allows on TPUs and CUDA reports on GPUs
    flops: float  # dense bf16 FLOP/s
    hbm_bytes: float  # bytes/s
    link_bytes: float  # bytes/s that a device sends to its peers over the fast network (ICI, NVLink)
    outer_bytes: float  # the same over the network between slices or machines; 0: unknown
    dims: int = 2  # of a TPU's torus; 0: not a TPU
    cores_per_chip: int = 1  # as the maker counts
    devices_per_chip: int = 1  # of a topology to compile for
    fused: bool = False  # at run time all cores of a chip are one device


CHIPS: dict[str, Chip] = {
    # v4 and 7x: a device to compile for is a core, half a chip
    "v4": Chip("TPU v4", 15.25, 137.5e12, 6.1e11, 1.3e11, 0, dims=3, cores_per_chip=2, devices_per_chip=2, fused=True),
    "v5e": Chip("TPU v5 lite", 15.75, 197e12, 8.2e11, 2.0e11, 3.1e9),
    "v5p": Chip("TPU v5", 95.74, 459e12, 2.77e12, 6.0e11, 6.25e9, dims=3, cores_per_chip=2),
    "v6e": Chip("TPU v6 lite", 31.25, 918e12, 1.64e12, 4.5e11, 1.25e10),
    "7x": Chip("TPU7x", 94.75, 1153e12, 3.7e12, 6.0e11, 0, dims=3, cores_per_chip=2, devices_per_chip=2),
    "h100": Chip("NVIDIA H100 80GB HBM3", 79.1, 989e12, 3.35e12, 4.5e11, 5.0e10, dims=0),
    "h200": Chip("NVIDIA H200", 139.8, 989e12, 4.8e12, 4.5e11, 5.0e10, dims=0),
}

# GPUs that `pivot-jax launch` asks for by these names, and of which plans have no figures.
OTHER_GPUS = ("a100", "b200", "gh200", "l4", "l40s")

# Devices without a topology for plans, and devices whose JAX kind is shorter than the full name.
_OTHERS = {
    "TPU v4": 275e12,  # at run time both cores of a chip are one device
    "NVIDIA A100": 312e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200 NVL": 835e12,
}


def peak_flops(kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device by jax's kind; None where it is not known.

    A GPU's kind has a suffix after the model's name ("NVIDIA A100-SXM4-80GB"), so the longest known prefix counts.
    """
    known = {chip.kind: chip.flops for chip in CHIPS.values()} | _OTHERS
    names = [name for name in known if kind.startswith(name)]
    return known[max(names, key=len)] if names else None


def processor() -> str:
    """Name of this machine's processor, where the system tells it: figures differ between kinds."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
