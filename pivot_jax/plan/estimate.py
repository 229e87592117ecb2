"""Memory of a step by counting, where the compiler of a topology is not installed. A guide, not a proof.

The factors below are fitted to nine compiled steps (benchmarks/README.md): temporaries were 7 to 16 % too low where the
step is split over devices, and 31 % too high on one H200.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from pivot_jax import rules
from pivot_jax.models.flops import traced_flops
from pivot_jax.plan.program import Program, device_bytes, held, reference_beside, step_arguments
from pivot_jax.train.setup import Setup

# Values that a tower keeps for the backward pass beyond its blocks' inputs, in units of the outputs of its matmuls and
# attention.
_KEPT = {"full": 0.0, "dots": 1.0, "none": 3.3}
# Values that the backward pass of one block holds at once, per token, in units of its width and of its MLP's width.
_AT_WORK = (16, 10)


def estimate_step(setup: Setup, bucket: tuple[int, int], rows: int, *, count: bool = True) -> Program:
    """As ``program.compile_step``, with temporaries from :func:`_temporaries` and no traffic.

    Args:
      count: trace the step for its FLOPs, which takes seconds; otherwise they are 0.
    """
    arguments, beside = step_arguments(setup, bucket, rows), reference_beside(setup)
    return Program(
        **held(arguments, beside),
        arguments=beside + device_bytes(arguments),
        temporaries=_temporaries(setup, arguments[0].trained, bucket, rows),
        flops=traced_flops(jax.make_jaxpr(setup.compiled_step())(*arguments)) if count else 0.0,
        traffic={},
    )


def _temporaries(setup: Setup, trained: Any, bucket: tuple[int, int], rows: int) -> int:
    """Bytes of gradients, of values that the blocks keep for the backward pass, and of one active block."""
    module, config = setup.model.module, setup.config
    size = np.dtype(config.model.dtype).itemsize if config.model.dtype != "bfloat16" else 2
    shards = setup.mesh.shape["data"] * setup.mesh.shape["fsdp"]
    here = rows // (config.data.packing * shards * config.train.accumulate)  # sequences of a micro-batch
    images = config.data.packing * config.data.images_per_row * config.data.image.max_tiles
    towers = module.sequences(images, bucket[0])
    flat, kept, work = rules.flatten(setup.like), 0.0, 0.0
    for name, tower, tokens in towers:
        kernels = [leaf.shape for path, leaf in flat.items() if path.startswith(f"{name}/blocks/") and "kernel" in path]
        inputs = kernels[0][0] * tower.width  # of all blocks, per token; attention's outputs are as many
        products = sum(shape[0] * shape[-1] for shape in kernels)
        values = inputs + _KEPT[getattr(tower, "remat", "none")] * (products + inputs)
        kept += here * tokens * values * size
        at_work = _AT_WORK[0] * tower.width + _AT_WORK[1] * tower.mlp_dim
        work = max(work, here * tokens * at_work * size)
    return device_bytes(trained) + round(kept + work)
