"""Accelerators by name, as compile-only devices: "v5e-16", "v5p-8", "v6e-16x2", "h200-8".

The number counts as the maker's own names do: chips, but for v4, v5p and 7x TensorCores (two per chip). The suffix
``xN`` means N slices joined by the data-centre network. TPU topologies need the libtpu wheel (extra ``tpu``),
and NVIDIA topologies need jax's cuda plugin (extra ``cuda``). Neither needs the hardware.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.parallel.chips import CHIPS, OTHER_GPUS, Chip

# Available slices by number of chips: the sides of the torus.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBIC = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"
}  # fmt: skip
_NAME = re.compile(r"(\w+)-(\d+)(?:x(\d+))?")
# Keeps libtpu from asking the cloud's metadata server and from printing, and allows several compile-only processes.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclass(frozen=True)
class Topology:
    """Devices to compile for; ``devices`` is None where the plugin that compiles for them is not installed."""

    name: str
    chip: Chip
    count: int
    slices: int
    devices: Any
    missing: str = ""  # the extra to install

    @property
    def machine(self) -> int:
        """Number of GPUs joined by NVLink; 0 for TPUs, whose compiler marks the traffic that leaves a slice."""
        return 0 if self.chip.dims else self.count // self.slices


@dataclass(frozen=True)
class Name:
    """What the name of a topology says, without its devices."""

    text: str  # "v5p-16x2"
    accelerator: str  # "v5p"
    chip: Chip | None  # None: a GPU without figures
    number: int  # GPUs of a machine; of a TPU slice, as the maker counts
    slices: int  # of TPUs; machines with GPUs
    sides: str = ""  # of a TPU slice's torus, "2x2x2"

    @property
    def chips(self) -> int:
        """Of one slice or machine."""
        return self.number // (self.chip.cores_per_chip if self.chip else 1)


def parse(name: str) -> Name:
    """What a topology's name says.

    Raises:
      UserError: unknown accelerator, or a number of chips without a slice.
    """
    match = _NAME.fullmatch(name)
    if not match or match[1] not in (*CHIPS, *OTHER_GPUS):
        known = ", ".join((*CHIPS, *OTHER_GPUS))
        raise UserError(f"topology '{name}' is unknown; write ACCELERATOR-NUMBER with one of: {known}")
    chip, number, slices = CHIPS.get(match[1]), int(match[2]), int(match[3] or 1)
    if not slices:
        raise UserError(f"topology '{name}': x0 means no slice; write {match[1]}-{number} for a single one")
    if chip is None or not chip.dims:
        if not 1 <= number <= 8:
            raise UserError(f"topology '{name}': a machine has 1 to 8 GPUs; write {match[1]}-8xN for N machines")
        return Name(name, match[1], chip, number, slices)
    sides = _FLAT if chip.dims == 2 else _CUBIC
    if number % chip.cores_per_chip or number // chip.cores_per_chip not in sides:
        sold = ", ".join(f"{match[1]}-{n * chip.cores_per_chip}" for n in sides)
        raise UserError(f"topology '{name}' does not exist; choose one of: {sold}")
    return Name(name, match[1], chip, number, slices, sides[number // chip.cores_per_chip])


def find(name: str) -> Topology:
    """The topology with a name.

    Raises:
      UserError: as :func:`parse`, or an accelerator of which there are no figures.
    """
    named = parse(name)
    chip, slices = named.chip, named.slices
    if chip is None:
        raise UserError(
            f"topology '{name}': plan has no figures of this GPU; plan for one of these instead: {', '.join(CHIPS)}"
        )
    if not chip.dims:
        return _with_devices(name, chip, named.number * slices, slices, "cuda", f"{slices}x1x{named.number}")
    family = "tpu7x" if named.accelerator == "7x" else named.accelerator
    count = named.chips * chip.devices_per_chip * slices
    return _with_devices(name, chip, count, slices, "tpu", f"{family}:{named.sides}")


def _with_devices(name: str, chip: Chip, count: int, slices: int, platform: str, layout: str) -> Topology:
    modules = ("libtpu",) if platform == "tpu" else ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
    if not any(_installed(module) for module in modules):
        return Topology(name, chip, count, slices, None, "tpu" if platform == "tpu" else "cuda")
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"topology_name": layout} if platform == "tpu" else {"topology": layout}
    if platform == "cuda":
        options["target_config"] = gpu_target(chip)
    elif slices > 1:
        options["num_slices"] = slices
    devices = topologies.get_topology_desc(platform=platform, **options).devices
    return Topology(name, chip, len(devices), slices, devices)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def gpu_target(chip: Chip) -> str:
    """XLA's description of an H100 or H200, which differ only in memory."""
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024  threads_per_warp: 32  shared_memory_per_block: 49152  shared_memory_per_core: 233472
  threads_per_core_limit: 2048  core_count: 132  fpus_per_core: 128  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535  block_dim_limit_z: 65535  memory_bandwidth: {int(chip.hbm_bytes)}  l2_cache_size: 52428800
  clock_rate_ghz: 1.98  device_memory_size: {int(chip.hbm_gib * 2**30)}  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 minor: 0 }}  registers_per_core_limit: 65536  registers_per_block_limit: 65536
}}
platform_name: "CUDA"  dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{chip.kind}"
"""
