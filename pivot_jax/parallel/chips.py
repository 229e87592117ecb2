"""Accelerators by name, with the figures that plans and throughput are held against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One device as a program sees it; figures are from the makers' data sheets.

    A v5e's and a v6e's share of the outer network is their pod's over its 256 chips; a GPU's is one port of 400 Gbit/s.
    """

    kind: str  # jax's device kind
    hbm_gib: float  # memory that a program may use: what XLA allows on TPUs, what CUDA reports of GPUs
    flops: float  # dense bf16 FLOP/s
    hbm_bytes: float  # bytes/s
    link_bytes: float  # bytes/s that a device sends to its peers over the fast network (ICI, NVLink)
    outer_bytes: float  # the same over the network that joins slices or machines; 0: not known to us
    dims: int = 2  # of a TPU's torus; 0: not a TPU
    cores_per_chip: int = 1  # in the maker's counting
    devices_per_chip: int = 1


CHIPS: dict[str, Chip] = {
    # v4 and 7x: a core is a device, so half a chip
    "v4": Chip("TPU v4", 15.25, 137.5e12, 6.1e11, 1.3e11, 0, dims=3, cores_per_chip=2, devices_per_chip=2),
    "v5e": Chip("TPU v5 lite", 15.75, 197e12, 8.2e11, 2.0e11, 3.1e9),
    "v5p": Chip("TPU v5", 95.74, 459e12, 2.77e12, 6.0e11, 6.25e9, dims=3, cores_per_chip=2),
    "v6e": Chip("TPU v6 lite", 31.25, 918e12, 1.64e12, 4.5e11, 1.25e10),
    "7x": Chip("TPU7x", 94.75, 1153e12, 3.7e12, 6.0e11, 0, dims=3, cores_per_chip=2, devices_per_chip=2),
    "h100": Chip("NVIDIA H100 80GB HBM3", 79.1, 989e12, 3.35e12, 4.5e11, 5.0e10, dims=0),
    "h200": Chip("NVIDIA H200", 139.8, 989e12, 4.8e12, 4.5e11, 5.0e10, dims=0),
}

# Of devices that no plan is for, and of those whose kind says less than the whole name.
_OTHERS = {
    "TPU v4": 275e12,  # where it runs, both cores of a chip are one device
    "NVIDIA A100": 312e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200 NVL": 835e12,
}


def peak_flops(kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device by jax's kind; None where it is not known.

    Kinds of GPUs go on behind the model's name ("NVIDIA A100-SXM4-80GB"), so the longest beginning counts.
    """
    known = {chip.kind: chip.flops for chip in CHIPS.values()} | _OTHERS
    names = [name for name in known if kind.startswith(name)]
    return known[max(names, key=len)] if names else None
