"""Checkpoints are read straight into sharded arrays on eight devices."""

from __future__ import annotations

import jax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pivot_jax import hub, rules
from pivot_jax.errors import UserError
from tests.hub.test_load import count_rows, same

SPECS = [
    (r".*/blocks/.*/(q|k|v|gate|up|fc1)/kernel", P(None, "fsdp", "tensor")),
    (r".*/blocks/attn/out/kernel", P(None, "tensor", "fsdp")),
    (r"vision/embed/kernel", P("fsdp")),
    (r"vision/blocks/ln1/scale", P("tensor")),
    (r"decoder/embed", P(None, "fsdp")),
    (r".*", P()),
]


@pytest.mark.parametrize("chunk", [4 << 20, 100], ids=["whole tensors", "a few rows at a time"])
def test_sharded_arrays_equal_and_every_tensor_is_read_once(llava, monkeypatch, chunk):
    """Values are those of an unsharded read, also where a tensor comes in several pieces."""
    whole = hub.load_params(llava)
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    specs = rules.map_rules(SPECS, whole)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P))
    monkeypatch.setattr(hub.fill, "_CHUNK", chunk)
    read = count_rows(monkeypatch)
    loaded = hub.load_params(llava, shardings)
    same(loaded, whole)
    kernel = loaded["decoder"]["blocks"]["mlp"]["gate"]["kernel"]
    assert kernel.sharding.spec == P(None, "fsdp", "tensor")
    with hub.shards.Shards(llava) as shards:
        assert read == {key: shards.shape(key)[0] for key in shards.keys}


def test_a_tree_of_shardings_says_what_is_wanted(llava):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    loaded = hub.load_params(llava, {"decoder": {"norm": {"scale": one}}})
    assert list(rules.flatten(loaded)) == ["decoder/norm/scale"]
    assert loaded["decoder"]["norm"]["scale"].devices() == {jax.devices()[1]}
    with pytest.raises(UserError, match=r"no parameter 'decoder/norms/scale'; nearest: 'decoder/norm/scale'"):
        hub.load_params(llava, {"decoder": {"norms": {"scale": one}}})
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(UserError, match="does not divide"):
        hub.load_params(llava, {"decoder": {"embed": NamedSharding(mesh, P("x"))}})


def test_a_function_chooses_what_is_read_and_where(llava):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    loaded = hub.load_params(llava, lambda path, shape: one if path.endswith("norm/scale") and shape == (32,) else None)
    assert list(rules.flatten(loaded)) == ["decoder/norm/scale"]
    assert loaded["decoder"]["norm"]["scale"].devices() == {jax.devices()[1]}
