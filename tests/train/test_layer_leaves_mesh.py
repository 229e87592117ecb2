"""A leaf per layer on meshes of eight devices."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from pivot_jax import rules
from pivot_jax.models import stacking
from pivot_jax.parallel.mesh import AXES, make_mesh, param_shardings
from pivot_jax.train.checkpoints import Checkpoints
from pivot_jax.train.setup import build_setup, starting_params
from tests.tiny import pairs
from tests.train.conftest import LORA
from tests.train.test_layer_leaves import UNSCANNED

MESHES = [(1, 4, 2), (2, 2, 2)]
Q = "decoder/blocks/attn/q"


def placed(mesh):
    return jax.tree.map(jax.device_put, pairs.params(), param_shardings(pairs.params(), mesh))


def all_equal(function, *trees) -> bool:
    return all(jax.tree.leaves(jax.tree.map(function, *trees)))


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.heavy_after(1)
def test_layers_are_split_as_their_stack_without_its_first_axis(shape):
    mesh = make_mesh(dict(zip(AXES, shape, strict=True)))
    params = placed(mesh)
    separate = stacking.per_layer(params)
    wanted = param_shardings(stacking.per_layer(jax.eval_shape(lambda: pairs.params())), mesh)
    assert all_equal(lambda x, sharding: x.sharding == sharding, separate, wanted)
    kernel = rules.flatten(separate)[f"{Q}/kernel"][1]
    assert kernel.sharding.spec == P("fsdp", "tensor")
    assert kernel.addressable_shards[0].data.shape == (32 // shape[1], 32 // shape[2])
    again = stacking.stacked(separate)
    jax.tree.map(np.testing.assert_array_equal, again, pairs.params())
    assert all_equal(lambda a, b: a.sharding == b.sharding, again, params)


def test_splitting_and_stacking_move_nothing_between_devices():
    params = placed(make_mesh({"data": 1, "fsdp": 4, "tensor": 2}))
    for function, tree in ((stacking.per_layer, params), (stacking.stacked, stacking.per_layer(params))):
        text = jax.jit(function).lower(tree).compile().as_text()
        assert not any(name in text for name in ("all-gather", "all-to-all", "all-reduce", "collective-permute"))


@pytest.mark.heavy
def test_a_state_is_saved_stacked_and_restored_in_any_layout_and_mesh(make_config, tmp_path):
    """With adapters, which are sharded as their kernels."""

    def setup(layout, shape):
        sizes = {f"parallel__{axis}": size for axis, size in zip(AXES, shape, strict=True)}
        return build_setup(make_config(**LORA, **layout, **sizes), None)

    first = setup(UNSCANNED, MESHES[0])
    with jax.set_mesh(first.mesh):
        state = first.fresh_state(starting_params(first))
    saved = Checkpoints(tmp_path)
    saved.save(1, state, {})
    saved.wait()
    for layout, shape in ((UNSCANNED, MESHES[1]), ({}, MESHES[0])):
        like = setup(layout, shape).state_like()
        found, _ = saved.restore(1, like)
        assert stacking.has_layers(found) == bool(layout)
        assert all_equal(lambda x, like: x.sharding == like.sharding, found, like)
        jax.tree.map(np.testing.assert_array_equal, stacking.on_host(found), stacking.on_host(state))
        for part, leaf, spec in (
            (found.trained, "lora_a", P("fsdp", None)),
            (found.frozen, "kernel", P("fsdp", "tensor")),
        ):
            array = rules.flatten(part)[f"{Q}/{leaf}"]
            assert (array[0].sharding.spec == spec) if layout else (array.sharding.spec == P(None, *spec))
    saved.close()
