"""The sampler of an online RL run: its decode block compiled ahead of time, and the memory beside the train state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pivot_jax.kernels.decode import cache_spec
from pivot_jax.parallel.mesh import ROWS
from pivot_jax.plan.program import compiler_options, device_bytes, reference_beside, too_large
from pivot_jax.plan.topology import Topology
from pivot_jax.rl.parts import sampler_shape
from pivot_jax.rollout import program
from pivot_jax.rollout.cache import empty_cache, weights_of
from pivot_jax.rollout.choice import Draw, Rule
from pivot_jax.rollout.decoding import cache_size
from pivot_jax.train.setup import Setup


@dataclass(frozen=True)
class Sampling:
    """Sampling with all slots at their longest; bytes of one device.

    Attributes:
      slots: responses that are decoded together, on all devices. tokens: of the cache, for each.
      state: what training keeps meanwhile: parameters, optimizer, reference.
      weights: the decoder's in the compute type, where they are not the parameters themselves.
      temporaries: of a block of steps; 0 without the compiler.
      token_s: lower bound of a step of all slots, seconds: one read of the decoder and of the cache.
    """

    slots: int
    tokens: int
    state: int
    weights: int
    cache: int
    temporaries: int
    token_s: float

    @property
    def peak(self) -> int:
        return self.state + self.weights + self.cache + self.temporaries


def plan_sampling(setup: Setup, topology: Topology, bucket: tuple[int, int]) -> Sampling:
    """The sampler of a policy's config, for prompts of a bucket (tokens and targets of a row with its responses).

    Raises:
      program.TooLarge: a block of steps needs more memory than a device has (TPUs).
    """
    config, module = setup.config, setup.model.module
    decoder, shape = module.config.decoder, sampler_shape(config, setup.mesh)
    size = cache_size(bucket[0] - bucket[1] + config.rl.max_tokens + shape.steps)
    use_mesh: Any = jax.sharding.use_abstract_mesh if topology.devices is None else jax.set_mesh
    with use_mesh(setup.mesh):
        params = setup.state_params
        weights = weights_of(module, params)
        spec = cache_spec(shape.slots, decoder.heads, decoder.kv_heads) or PartitionSpec()
        cache = jax.eval_shape(partial(empty_cache, decoder, module.config.dtype, shape.slots, size))
        cache = _placed(cache, setup.mesh, spec)
        temporaries = 0
        if topology.devices is not None:
            temporaries = _compiled(setup, shape, weights, cache)
    known = {id(leaf) for leaf in jax.tree.leaves(params)}
    own = [leaf for leaf in jax.tree.leaves(weights) if id(leaf) not in known]
    state = setup.state_like()
    read = device_bytes((weights.layers, weights.head, cache))
    return Sampling(
        slots=shape.slots,
        tokens=size,
        state=device_bytes((state.trained, state.frozen, state.opt_state)) + reference_beside(setup),
        weights=device_bytes(own),
        cache=device_bytes(cache),
        temporaries=temporaries,
        token_s=read / topology.chip.hbm_bytes,
    )


def _compiled(setup: Setup, shape: Any, weights: Any, cache: Any) -> int:
    """Temporary bytes of the decode block."""
    module = setup.model.module
    row = lambda dtype: jax.ShapeDtypeStruct((shape.slots,), dtype)  # noqa: E731
    rows = program.Rows(row(bool), *[row(np.int32)] * 4, *[row(np.uint32)] * 2)
    words = jax.ShapeDtypeStruct((module.config.decoder.vocab_size,), bool)
    number = partial(jax.ShapeDtypeStruct, ())
    draw = Draw(
        number(np.float32), number(np.float32), number(np.int32), number(np.float32), words, words,
        jax.ShapeDtypeStruct((2,), np.uint32),
    )  # fmt: skip
    states = jax.ShapeDtypeStruct((shape.slots, module.config.decoder.width), module.config.dtype)
    lowered = program.decode.lower(
        module, Rule(greedy=False), shape.steps, weights, cache, _placed(states, setup.mesh, ROWS),
        _placed(rows, setup.mesh, ROWS), _placed(draw, setup.mesh, PartitionSpec()),
    )  # fmt: skip
    try:
        compiled = lowered.compile(compiler_options=compiler_options(setup.mesh))
    except jax.errors.JaxRuntimeError as error:
        raise too_large(str(error)) or error from None
    memory: Any = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes


def _placed(tree: Any, mesh: Any, spec: Any) -> Any:
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
