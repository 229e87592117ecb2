"""Both layouts of a stack's parameters hold the same values and compute the same."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax import rules
from pivot_jax.models import lora, stacking
from pivot_jax.models.convnext import ConvNeXtConfig
from pivot_jax.models.encoder import Encoder, EncoderConfig
from pivot_jax.models.logprobs import score
from pivot_jax.models.mllm import MLLM
from pivot_jax.models.qwen_vision import QwenVisionConfig
from pivot_jax.models.stacking import Layers
from pivot_jax.rollout import cache as caches
from tests.tiny import pairs

KERNEL = "decoder/blocks/attn/q/kernel"


def same(found, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_only_the_stacks_of_the_named_towers_are_split_and_paths_stay():
    params = pairs.params()
    flat, whole = rules.flatten(stacking.per_layer(params, {"decoder"})), rules.flatten(params)
    assert list(flat) == list(whole)
    split = {path for path, leaf in flat.items() if isinstance(leaf, Layers)}
    assert split == {path for path in whole if path.startswith("decoder/blocks/")}
    assert (len(flat[KERNEL]), flat[KERNEL].shape, flat[KERNEL].dtype) == (2, (2, 32, 32), np.float32)
    both = rules.flatten(stacking.per_layer(params))
    assert isinstance(both["vision/blocks/ln1/scale"], Layers) and not isinstance(both["vision/pos_embed"], Layers)


def test_round_trips_of_host_arrays_devices_and_shapes():
    params = pairs.params()
    views = stacking.per_layer(params)
    assert np.shares_memory(rules.flatten(views)[KERNEL][1], rules.flatten(params)[KERNEL])
    on_devices = stacking.per_layer(jax.tree.map(jnp.asarray, params))
    shapes = stacking.per_layer(jax.eval_shape(lambda: params))
    for tree in (views, on_devices, stacking.per_layer(on_devices), jax.jit(stacking.per_layer)(params)):
        same(stacking.stacked(tree), params)
        same(stacking.on_host(tree), params)
        assert jax.tree.structure(tree) == jax.tree.structure(shapes)
    traced = jax.jit(lambda tree: stacking.stacked(stacking.per_layer(tree)))(params)
    same(traced, params)
    assert jax.tree.map(lambda x: x.shape, stacking.stacked(shapes)) == jax.tree.map(lambda x: x.shape, params)


def test_the_arrays_that_a_state_is_made_of_are_freed():
    params = jax.tree.map(jnp.array, pairs.params())
    tree = {"mu": params, "count": jnp.zeros((), jnp.int32)}
    like = {"mu": stacking.per_layer(params, {"vision"}), "count": tree["count"]}
    found = stacking.split_like(like, tree)
    assert jax.tree.structure(found) == jax.tree.structure(like)
    same(stacking.stacked(found), {"mu": pairs.params(), "count": 0})
    deleted = {path for path, leaf in rules.flatten(params).items() if leaf.is_deleted()}
    assert deleted == {path for path in rules.flatten(params) if path.startswith("vision/blocks/")}


def adapted():
    """The tiny model's parameters with an adapter on two kernels of each tower."""
    params = pairs.params()
    shapes = {path: leaf.shape for path, leaf in rules.flatten(params).items()}
    ranks = {f"{tower}/blocks/{name}/kernel": 2 for tower in ("vision", "decoder") for name in ("attn/q", "attn/out")}
    rng = np.random.default_rng(1)
    made = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32), lora.create(jax.random.key(0), shapes, ranks, 4, False)
    )
    return rules.unflatten(rules.flatten(params) | rules.flatten(made))


@pytest.mark.parametrize("remat", ["none", "dots"])
@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.heavy_after(1)
def test_loss_and_gradients_are_those_of_the_unrolled_stack(remat, scan_layers):
    """With adapters. Parameters with a leaf per layer are unrolled also where a config scans."""
    batch, params = pairs.pairs(2), adapted()

    def found(scan, params):
        mllm = MLLM(pairs.config(scan_layers=scan, remat=remat))
        loss = lambda params: jnp.sum(score(mllm, params, batch).logps * batch.weights)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    value, gradients = found(scan_layers, stacking.per_layer(params))
    assert isinstance(rules.flatten(gradients)[KERNEL], Layers)
    expected, whole = found(False, params)
    np.testing.assert_array_equal(value, expected)
    same(stacking.stacked(gradients), whole)


def test_a_program_of_separate_layers_copies_nothing_out_of_a_stack():
    images = np.zeros((1, 1, 16, 16, 3), np.uint8)
    module = MLLM(pairs.config(scan_layers=False))
    encode = lambda params: module.apply({"params": params}, images, method="encode_images")  # noqa: E731
    whole, separate = (
        str(jax.make_jaxpr(encode)(tree)) for tree in (pairs.params(), stacking.per_layer(pairs.params()))
    )
    assert whole.count("squeeze") > separate.count("squeeze") and "scan" not in separate


@pytest.mark.heavy
def test_intermediates_and_the_samplers_cache():
    batch, found = pairs.pairs(2), []
    module = MLLM(pairs.config(scan_layers=False))
    for params in (pairs.params(), stacking.per_layer(pairs.params())):
        _, taps = module.bind({"params": params}).encode_images_with_taps(batch.images, ("embed", "blocks/1"))
        read = caches.read_prompts(module, caches.weights_of(module, params), batch.replace(branches=None))
        found.append((taps, read))
    same(*found)


QWEN = QwenVisionConfig(
    patch_size=4, width=16, depth=3, heads=2, mlp_dim=32, window=8, full_blocks=(1,), max_patches=16
)
CONVNEXT = ConvNeXtConfig(image_size=16, widths=(8, 16), depths=(2, 3), patch_size=2)


@pytest.mark.parametrize("kind", ["convnext", "qwen"])
@pytest.mark.heavy
def test_towers_with_several_stacks_and_with_inputs_per_layer(kind):
    """The stages of a ConvNeXt; the blocks of Qwen's tower, some of which attend over the whole image."""
    rng = np.random.default_rng(0)
    if kind == "qwen":
        config = EncoderConfig(dataclasses.replace(QWEN, scan_layers=False))
        grid = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1).reshape(1, 1, 16, 2)
        inputs = rng.normal(size=(1, 1, 16, 48)).astype(np.float32), grid
    else:
        second = dataclasses.replace(CONVNEXT, scan_layers=False)
        config = EncoderConfig(dataclasses.replace(pairs.CONFIG.vision, scan_layers=False), second)
        inputs = (rng.integers(0, 256, (1, 1, 16, 16, 3)).astype(np.uint8),)
    encoder = Encoder(config)
    params = jax.jit(lambda key: encoder.init(key, *config.vision.example_input(), method="whole")["params"])(
        jax.random.key(0)
    )
    separate = stacking.per_layer(params)
    stacks = {path for path, leaf in rules.flatten(separate).items() if isinstance(leaf, Layers)}
    assert {path.split("/blocks/")[0] for path in stacks} == (
        {"vision"} if kind == "qwen" else {"vision", "second/stages_0", "second/stages_1"}
    )
    same(stacking.stacked(separate), params)
    encode = jax.jit(lambda params: encoder.apply({"params": params}, *inputs, method="encode_images"))
    same(encode(separate), encode(params))


def test_adapters_of_separate_layers_merge_into_the_same_kernels():
    same(lora.merged(stacking.per_layer(adapted())), lora.merged(adapted()))
