"""The device mesh and the sharding of arrays on it.

Axes: ``data`` splits rows; ``fsdp`` splits rows and parameters; ``tensor`` splits heads, hidden units and vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.models import lora
from pivot_jax.models.stacking import Layers

AXES = ("data", "fsdp", "tensor")
ROWS = P(("data", "fsdp"))

# Kernels are [in, out]. Kernels that read the residual stream are split over their outputs (tensor) and their input
# width (fsdp). Kernels that write it are split the other way round, so a block needs one reduction. Stacked blocks have
# a leading layer axis that is never split.
_READS, _WRITES = P("fsdp", "tensor"), P("tensor", "fsdp")
PARAM_RULES: rules.Rules = [
    (r"(decoder|text)/(embed|head)", P("tensor", "fsdp")),
    (r".*/blocks/attn/(q|k|v)/kernel|.*/blocks/mlp/(gate|up|fc1)/kernel", P(None, *_READS)),
    (r".*/blocks/attn/out/kernel|.*/blocks/mlp/(down|fc2)/kernel", P(None, *_WRITES)),
    (r".*/blocks/attn/(q|k|v)/bias|.*/blocks/mlp/(gate|up|fc1)/bias", P(None, "tensor")),
    (r"(vision|second)/final/.*/(q|k|v|fc1)/kernel", _READS),
    (r"(vision|second)/final/.*/(out|fc2)/kernel", _WRITES),
    (r"((vision|second)/embed|(vision|second)/final/pooler|text/head|projector/fc\d+)/kernel", P(None, "fsdp")),
    (r"(vision|second)/(stem|stages_\d+/down)/kernel", P(None, None, None, "fsdp")),
    (r".*", P()),
]


def make_mesh(section: Any, devices: Any = None) -> Mesh:
    """Mesh of ``config.parallel`` over all devices; one axis may be -1 and gets the remaining factor.

    Raises:
      UserError: the product of the axes is not the number of devices, or no axis of rows can be split over the slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(section, len(devices))
    if len(devices) == len(jax.devices()) and devices[0].platform != "cpu" and _slices(devices) == 1:
        # knows the interconnect's topology
        return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3)
    return Mesh(arrange(devices, sizes), AXES, axis_types=(AxisType.Auto,) * 3)


def arrange(devices: Any, sizes: tuple[int, ...]) -> np.ndarray:
    """Devices along :data:`AXES`, in their order.

    A slower network joins slices of TPUs. They split the first axis of rows that is a multiple of their number: with
    ``data`` only gradients cross that network, with ``fsdp`` parameters too.

    Raises:
      UserError: neither axis of rows is a multiple of the number of slices.
    """
    slices = _slices(devices)
    if slices == 1:
        return np.asarray(devices).reshape(sizes)
    axis = axis_over_slices(sizes, slices)
    across = [slices if i == axis else 1 for i in range(3)]
    within = [size // n for size, n in zip(sizes, across, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)


def axis_over_slices(sizes: tuple[int, ...], slices: int) -> int:
    """Which of :data:`AXES` the slices split; raises as :func:`arrange`."""
    axis = next((i for i, size in enumerate(sizes[:2]) if size % slices == 0), None)
    if axis is None:
        raise UserError(
            f"these devices are {slices} slices, and neither parallel.data={sizes[0]} nor parallel.fsdp={sizes[1]} is "
            f"a multiple of that; set parallel.data={slices}"
        )
    return axis


def _slices(devices: Any) -> int:
    """Number of TPU slices; devices of a single slice may lack an index. GPU machines count as one slice, since their
    devices are in the right order already."""
    return len({getattr(d, "slice_index", 0) for d in devices}) if devices[0].platform == "tpu" else 1


def mesh_sizes(section: Any, count: int) -> tuple[int, ...]:
    """Number of devices along each of :data:`AXES`, ``count`` in total; raises as :func:`make_mesh`."""
    sizes = [section[axis] for axis in AXES]
    rest = [i for i, size in enumerate(sizes) if size == -1]
    fixed = math.prod(size for size in sizes if size != -1)
    if len(rest) > 1 or fixed < 1 or count % fixed or (not rest and fixed != count):
        shape = ", ".join(f"parallel.{axis}={section[axis]}" for axis in AXES)
        raise UserError(
            f"{shape}: their product is not {count}, the number of devices; set one axis to -1 for the remaining factor"
        )
    if rest:
        sizes[rest[0]] = count // fixed
    return tuple(sizes)


def check_rows(rows: int, what: str, mesh: Mesh | AbstractMesh) -> None:
    """Raises UserError for a number of rows that is not a multiple of the mesh's row shards."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % shards:
        raise UserError(
            f"{what} is {rows}, not a multiple of parallel.data x parallel.fsdp = {shards}; change one of them"
        )


def param_shardings(params: Any, mesh: Mesh) -> Any:
    """Tree of NamedSharding by :data:`PARAM_RULES`; a dimension that an axis does not divide is not split.

    ``params``: of anything with a shape. Where a parameter has a leaf per layer, each gets the spec without the layer
    axis.
    """

    def of(path: str, leaf: Any) -> Any:
        spec = fit(_spec(path), leaf.shape, mesh)
        if isinstance(leaf, Layers):
            return Layers([NamedSharding(mesh, P(*spec[1:]))] * len(leaf))
        return NamedSharding(mesh, spec)

    return rules.unflatten({path: of(path, leaf) for path, leaf in rules.flatten(params).items()})


def _spec(path: str) -> P:
    """By :data:`PARAM_RULES`. An adapter's A is split as its kernel's inputs, its B as the outputs; the rank is not."""
    if not lora.is_adapter(path):
        return rules.match(PARAM_RULES, path, "sharding")
    kernel = tuple(rules.match(PARAM_RULES, lora.kernel_of(path), "sharding"))
    if path.endswith(f"/{lora.SCALE}") or len(kernel) < 2:
        return P()
    *stack, into, out = kernel
    return P(*stack, into, None) if path.endswith(f"/{lora.A}") else P(*stack, None, out)


def fit(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """``spec`` without the axes whose size does not divide the array's dimension."""
    entries = tuple(spec) + (None,) * (len(shape) - len(spec))
    kept = [axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(entries, shape, strict=True)]
    return P(*kept)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's rows of a batch (numpy) → global arrays split over the row axes."""
    sharding = NamedSharding(mesh, ROWS)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
