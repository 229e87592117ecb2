"""What a program is being traced for, and which backend of a kernel that means."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import jax

_logged: set[str] = set()


def platform() -> str:
    """One of cpu, gpu, tpu: of the mesh's devices where one is set, else the default backend.

    The mesh's devices may be a topology that is not here (ahead-of-time compilation), so the default backend alone
    would be wrong.
    """
    device = _abstract_device()
    name = jax.default_backend() if device is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def kind() -> str:
    """JAX's name of the device, as "NVIDIA H200"; of the mesh's where one is set."""
    device = _abstract_device()
    return jax.devices()[0].device_kind if device is None else device.device_kind


def _abstract_device():
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh.abstract_device


def choose(kernel: str, backend: str, backends: Mapping[str, Any], auto: Mapping[str, str]) -> Any:
    """As :func:`named`; "auto" is what ``auto`` has for the platform, logged once."""
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
        raise ValueError(f"{kernel} backend '{backend}' is unknown; there are: auto, {', '.join(backends)}")
    return backends[backend]


def log_once(message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        logging.getLogger("pivot_jax").info(message)
