"""Which backend of a kernel runs on which device.

A program may be traced for a device that is not present (ahead-of-time compilation), so platform and kind are those of
the mesh where one is set.

For attention, ``auto`` selects the backend that was measured fastest on the kind of device. The measurements are in
``choices.json``, which ``benchmarks/attention.py --write-table`` writes::

    {"NVIDIA H200": [{"widths": [64, 128], "causal": true, "mask": "segments", "dtype": "bfloat16",
                      "backend": "pallas_gpu"}, …]}

An entry counts for rows that attend to themselves. Decoding, with one query against a cache, was not measured.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from pivot_jax import files
from pivot_jax.kernels.tiles import Case

TABLE = Path(__file__).with_name("choices.json")
LEAST = 256  # tokens of a row: about half of the shortest row that is measured
Table = dict[str, list[dict[str, Any]]]
_logged: set[str] = set()


def platform() -> str:
    """One of cpu, gpu, tpu: the platform of the mesh's devices where a mesh is set, else of the default backend."""
    device = _abstract_device()
    name = jax.default_backend() if device is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def kind() -> str:
    """JAX's name of the device, such as "NVIDIA H200"; of the mesh's devices where a mesh is set."""
    device = _abstract_device()
    return jax.devices()[0].device_kind if device is None else device.device_kind


def _abstract_device():
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh.abstract_device


def select(kernel: str, backend: str, backends: Mapping[str, Any], auto: Mapping[str, str]) -> Any:
    """As :func:`named`. For "auto" the entry is ``auto``'s for the platform, and the choice is logged once."""
    if backend == "auto":
        backend = auto[platform()]
        log_once(f"{kernel} backend: {backend}")
    return named(kernel, backend, backends)


def named(kernel: str, backend: str, backends: Mapping[str, Any]) -> Any:
    """The entry of ``backends`` with that name.

    Raises:
      ValueError: an unknown name.
    """
    if backend not in backends:
        raise ValueError(f"{kernel} backend '{backend}' is unknown; choose one of: auto, {', '.join(backends)}")
    return backends[backend]


def log_once(message: str) -> None:
    """Logs a message the first time that this process sends it."""
    if message not in _logged:
        _logged.add(message)
        logging.getLogger("pivot_jax").info(message)


def fastest(kind: str, case: Case) -> str | None:
    """The attention backend measured fastest for a case on a kind of device; None where no like case was measured."""
    if case.n != case.m or case.n < LEAST:
        return None
    for entry in read_table(TABLE).get(kind, []):
        alike = entry["causal"] == case.causal and entry["mask"] == case.mask and entry["dtype"] == case.dtype
        if alike and case.c in entry["widths"]:
            return entry["backend"]
    return None


def write_table(kind: str, backends: dict[tuple[int, bool, str, str], str]) -> None:
    """Replaces the entries of a kind of device in the table.

    Args:
      backends: (head width, causal, mask, dtype) → backend. Widths that share the rest share an entry.

    Raises:
      UserError: the file cannot be written.
    """
    widths: dict[tuple[Any, ...], set[int]] = {}
    for (width, *rest), backend in backends.items():
        widths.setdefault((*rest, backend), set()).add(width)
    entries = [
        {"widths": sorted(found), "causal": causal, "mask": mask, "dtype": dtype, "backend": backend}
        for (causal, mask, dtype, backend), found in sorted(widths.items())
    ]
    lines = [
        f"{json.dumps(name)}: [\n " + ",\n ".join(json.dumps(x) for x in rows) + "\n]"
        for name, rows in sorted(({**read_table(TABLE), kind: entries}).items())
    ]
    files.write_text(TABLE, "{\n" + ",\n".join(lines) + "\n}\n")
    read_table.cache_clear()


@functools.cache
def read_table(file: Path) -> Table:
    """The table by kind of device; a file is read once per process."""
    return json.loads(file.read_text(encoding="utf-8"))
