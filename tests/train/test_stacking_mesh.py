"""A leaf per layer on meshes of eight devices."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from pivot_jax import rules
from pivot_jax.models import stacking
from pivot_jax.parallel.mesh import make_mesh, param_shardings
from pivot_jax.train import checkpoint
from pivot_jax.train.run import run
from pivot_jax.train.setup import build_setup
from tests.tiny import pairs
from tests.train.conftest import LORA
from tests.train.test_stacking import UNSCANNED

MESHES = [(1, 4, 2), (2, 2, 2)]


def sizes(mesh):
    return {f"parallel__{axis}": size for axis, size in zip(("data", "fsdp", "tensor"), mesh, strict=True)}


def placed(mesh):
    shardings = param_shardings(pairs.params(), mesh)
    return jax.tree.map(jax.device_put, pairs.params(), shardings)


@pytest.mark.parametrize("shape", MESHES)
def test_layers_are_split_as_their_stack_without_its_first_axis(shape):
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), shape, strict=True)))
    params = placed(mesh)
    like = stacking.per_layer(jax.eval_shape(lambda: pairs.params()))
    separate, wanted = stacking.per_layer(params), param_shardings(like, mesh)
    assert all(jax.tree.leaves(jax.tree.map(lambda x, sharding: x.sharding == sharding, separate, wanted)))
    kernel = rules.flatten(separate)["decoder/blocks/attn/q/kernel"][1]
    assert kernel.sharding.spec == P("fsdp", "tensor")
    assert kernel.addressable_shards[0].data.shape == (32 // shape[1], 32 // shape[2])
    again = stacking.stacked(separate)
    jax.tree.map(np.testing.assert_array_equal, again, pairs.params())
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, again, params)
    assert all(jax.tree.leaves(same))


def test_splitting_and_stacking_move_nothing_between_devices():
    mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
    params = placed(mesh)
    separate = stacking.per_layer(params)
    for function, tree in ((stacking.per_layer, params), (stacking.stacked, separate)):
        text = jax.jit(function).lower(tree).compile().as_text()
        assert not any(name in text for name in ("all-gather", "all-to-all", "all-reduce", "collective-permute"))


def test_a_state_on_a_mesh_is_saved_stacked_and_restored_per_layer(make_config, tmp_path):
    """The run resumes on another mesh and in the other layout; adapters are sharded as their kernels."""
    start = {"train__steps": 2, "name": "same"} | LORA
    run(make_config(**start, **UNSCANNED, **sizes((1, 4, 2))), tmp_path)
    for (mesh, scan), adapter in itertools.product([((2, 2, 2), UNSCANNED), ((1, 4, 2), {})], ["lora_a", "kernel"]):
        setup = build_setup(make_config(**start, **scan, **sizes(mesh)), tmp_path)
        state, _ = checkpoint.Checkpoints(tmp_path).restore(2, setup.state_like())
        assert stacking.has_layers(state.trained) == bool(scan)
        shardings = jax.tree.map(lambda x, like: x.sharding == like.sharding, state, setup.state_like())
        assert all(jax.tree.leaves(shardings))
        part = state.trained if adapter == "lora_a" else state.frozen
        leaf = rules.flatten(part)[f"decoder/blocks/attn/q/{adapter}"]
        spec = P("fsdp", None if adapter == "lora_a" else "tensor")
        assert (leaf[0].sharding.spec == spec) if scan else (leaf.sharding.spec == P(None, *spec))
        jax.tree.map(
            np.testing.assert_array_equal,
            rules.flatten(stacking.on_host(part)),
            {path: rules.flatten(checkpoint.load_run(tmp_path, merge=False))[path] for path in rules.flatten(part)},
        )
