"""What a program is being traced for."""

from __future__ import annotations

import jax


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
