"""A run's train step, compiled ahead of time for devices that are not present."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding

from pivot_jax.data.processing.batch import ContrastiveBatch, VLMBatch
from pivot_jax.data.processing.processor import build_geometry
from pivot_jax.data.processing.tiles import TAPS
from pivot_jax.errors import UserError
from pivot_jax.models import lora
from pivot_jax.models.flops import traced_flops
from pivot_jax.objectives.policy import stored_values
from pivot_jax.objectives.table import build_objective
from pivot_jax.parallel.mesh import AXES, ROWS, arrange, check_rows, mesh_sizes
from pivot_jax.plan.collectives import Traffic, traffic
from pivot_jax.plan.topology import Topology
from pivot_jax.train.model import build_model
from pivot_jax.train.setup import Setup, assemble

GIB = 2**30


@dataclass(frozen=True)
class Program:
    """A compiled step; bytes of one device."""

    parameters: int  # trained and frozen
    optimizer: int
    reference: int  # a second model, where the objective runs one in the step, or after a rollout
    arguments: int  # all of the above and the batch; the state is updated in place
    temporaries: int
    flops: float  # of all devices, as traced: recomputation and padding included
    traffic: dict[str, Traffic]

    @property
    def peak(self) -> int:
        return self.arguments + self.temporaries


class TooLarge(Exception):
    """The compiler rejected a step that needs ``needed`` bytes of a device with ``limit`` bytes."""

    def __init__(self, needed: int, limit: int):
        super().__init__(f"needs {needed / GIB:.2f} GiB of {limit / GIB:.2f}")
        self.needed, self.limit = needed, limit


def prepare(config: Any, topology: Topology) -> Setup:
    """The run's parts without data, tokenizer and arrays.

    Raises:
      UserError: parts of the config do not fit together, or do not fit these devices.
    """
    sizes = mesh_sizes(config.parallel, topology.count)
    mesh: Any
    if topology.devices is None:
        mesh = AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3)
    else:
        mesh = Mesh(arrange(topology.devices, sizes), AXES, axis_types=(AxisType.Auto,) * 3)
    model = build_model(config, 1)  # the tokenizer is not read; training reports a vocabulary that is too small
    objective = build_objective(model.module, config)
    return assemble(config, mesh, SimpleNamespace(total_steps=1000), model, objective)


def abstract_batch(setup: Setup, bucket: tuple[int, int], rows: int) -> Any:
    """A global batch of ``rows`` rows, packed by the config's settings, as ShapeDtypeStruct."""
    config, size, packing = setup.config, setup.config.data.image.size, setup.config.data.packing
    sharding = NamedSharding(setup.mesh, ROWS)
    array = lambda dtype, *shape: jax.ShapeDtypeStruct((rows // packing, *shape), dtype, sharding=sharding)  # noqa: E731
    if setup.objective.kind == "contrastive":
        tokens = config.model.text.max_length
        return ContrastiveBatch(
            array(np.uint8, size, size, 3), array(np.int32, tokens), array(np.float32), array(np.int32)
        )
    n, t = bucket
    vision, slots = setup.model.module.config.vision, packing * config.data.images_per_row
    geometry = build_geometry(config.data.image, vision.patch_size)
    images = geometry.empty(slots * geometry.arrays)
    tiled = geometry.arrays > 1
    positions = array(np.int32, n, 3) if setup.model.module.config.decoder.mrope_section else array(np.int32, n)
    ids, targets = array(np.int32, n), array(np.int32, t)
    return VLMBatch(
        images=array(np.uint8, *images.pixels.shape),
        patch_positions=None if images.positions is None else array(np.int32, *images.positions.shape),
        tile_taps=array(np.int32, n, TAPS) if tiled else None,
        tile_weights=array(np.float32, n, TAPS) if tiled else None,
        tokens=ids, image_slots=ids, positions=positions, segments=ids, branches=ids,
        sources=targets, targets=targets, weights=array(np.float32, t), target_branches=targets,
        target_rows=targets,
        row_index=array(np.int32, packing),
        **{name: array(np.float32, t) for name in _stored(setup)},
    )  # fmt: skip


def _stored(setup: Setup) -> tuple[str, ...]:
    """Fields of a batch with a value of each target."""
    if setup.objective.kind == "policy":
        return stored_values(setup.config.rl)
    return ("ref_logps",) if setup.objective.reference == "stored" else ()


def compile_step(setup: Setup, topology: Topology, bucket: tuple[int, int], rows: int) -> Program:
    """The step on ``rows`` rows of one bucket, for the topology's devices, which are those of the setup's mesh.

    Raises:
      UserError: the number of rows is not a multiple of what packing or the mesh needs.
      TooLarge: the step needs more memory than a device has (TPUs; for GPUs, compare :attr:`Program.peak`).
    """
    arguments, step = step_arguments(setup, bucket, rows), setup.compiled_step()
    with jax.set_mesh(setup.mesh):
        traced = step.trace(*arguments)
        try:
            compiled = traced.lower().compile(compiler_options=compiler_options(setup.mesh))
        except jax.errors.JaxRuntimeError as error:
            raise too_large(str(error)) or error from None
    memory = compiled.memory_analysis()
    beside = reference_beside(setup)
    return Program(
        **held(arguments, beside),
        arguments=beside + memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        flops=traced_flops(traced.jaxpr),
        traffic=traffic(compiled.as_text(), topology.machine),
    )


def compiler_options(mesh: Any) -> dict[str, Any]:
    """XLA selects its own Triton matmuls by timing them. Without timing, some of its choices do not compile, so the
    options select those of cuBLAS."""
    return {"xla_gpu_enable_triton_gemm": False} if mesh.devices.flat[0].platform == "gpu" else {}


def step_arguments(setup: Setup, bucket: tuple[int, int], rows: int) -> tuple[Any, Any, Any]:
    """State, batch and reference of a step as ShapeDtypeStruct."""
    config = setup.config
    for key, unit in (
        ("data.packing", config.data.packing),
        ("train.accumulate", config.data.packing * config.train.accumulate),
    ):
        if rows % unit:
            raise UserError(f"{rows} rows of a step are not a multiple of {unit}, as {key} requires; change either")
    check_rows(rows // unit, "sequences of a micro-batch" if unit > 1 else "the batch's number of rows", setup.mesh)
    reference = None
    if setup.objective.reference == "step" and not setup.keeps_base:
        reference = lora.base(setup.state_params)
    return setup.state_like(), abstract_batch(setup, bucket, rows), reference


def reference_beside(setup: Setup) -> int:
    """Bytes of the reference model that a device keeps although the step does not read it: that of online RL."""
    kept = setup.objective.kind == "policy" and setup.objective.reference is not None and not setup.keeps_base
    return device_bytes(lora.base(setup.state_params)) if kept else 0


def held(arguments: tuple[Any, Any, Any], beside: int = 0) -> dict[str, int]:
    """Bytes that one device holds before a step, by kind. ``beside``: of a reference model that is no argument."""
    state, _, reference = arguments
    return {
        "parameters": device_bytes((state.trained, state.frozen)),
        "optimizer": device_bytes(state.opt_state),
        "reference": beside + device_bytes(reference),
    }


def device_bytes(tree: Any) -> int:
    """Bytes on one device of a tree of ShapeDtypeStruct with shardings."""
    leaves = [x for x in jax.tree.leaves(tree) if hasattr(x, "sharding")]
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize for x in leaves)


def too_large(message: str) -> TooLarge | None:
    """The error for one of XLA's two messages; the second one counts temporaries only."""
    size = r"([\d.]+)([KMG])"
    found = re.search(f"Used {size} of {size} hbm", message)
    found = found or re.search(rf"temporaries \({size}\) exceeds available HBM \({size}\)", message)
    if not found:
        return None
    unit = {"K": 2**10, "M": 2**20, "G": GIB}
    return TooLarge(int(float(found[1]) * unit[found[2]]), int(float(found[3]) * unit[found[4]]))
