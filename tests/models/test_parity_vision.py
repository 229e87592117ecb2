"""Parity of every family of vision encoders with transformers, live."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pivot_jax import config as configs
from pivot_jax import hub, rules
from pivot_jax.data.processing.images import PRESETS
from pivot_jax.errors import UserError
from pivot_jax.models import positions, zoo
from pivot_jax.models.flops import traced_flops
from pivot_jax.models.layers import Collect
from pivot_jax.models.mllm import MLLM, MLLMConfig, ProjectorConfig
from pivot_jax.models.transformer import Block
from pivot_jax.models.vit import ViT, ViTConfig
from tests.parity import compare
from tests.tiny import hf, pairs

ODD = dict(image_size=37, patch_size=7, hidden_size=20, num_attention_heads=5)  # a remainder, 25 patches
SHAPES = {
    "clip_vision_model": {
        "plain": {},
        "odd": dict(**ODD, intermediate_size=17),
        "two layers, gelu": dict(num_hidden_layers=2, hidden_act="gelu"),
    },
    "dinov2": {
        "plain": {},
        "odd": dict(**ODD, mlp_ratio=3),
        "SwiGLU": dict(use_swiglu_ffn=True, mlp_ratio=4, num_hidden_layers=1),
    },
    "dinov2_with_registers": {
        "plain": {},
        "odd": dict(**ODD, num_register_tokens=3),
        "SwiGLU": dict(use_swiglu_ffn=True, num_register_tokens=1, hidden_size=20, num_attention_heads=2),
    },
    "vit_mae": {"plain": {}, "odd": dict(**ODD, intermediate_size=17), "one layer": dict(num_hidden_layers=1)},
    "vit": {"plain": {}, "odd": dict(**ODD, intermediate_size=17), "two layers": dict(num_hidden_layers=2)},
}
CASES = [(kind, name) for kind, shapes in SHAPES.items() for name in shapes]
# pixels at which the tables of "odd" and "plain" (5x5, 3x3 positions) are smaller and larger than the images' grid
RESIZED = [("siglip_vision_model", "plain", 56), ("clip_vision_model", "odd", 22), ("clip_vision_model", "plain", 40)]
RESIZED += [("dinov2", "odd", 65), ("dinov2_with_registers", "odd", 22), ("dinov2_with_registers", "plain", 56)]
RESIZED += [("vit_mae", "odd", 50), ("vit", "plain", 32)]


def random_images(size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)


def loaded(model, folder) -> tuple[ViTConfig, dict]:
    model.save_pretrained(folder)
    return hub.read_config(folder).vision, hub.load_params(folder)["vision"]


def ours(cfg: ViTConfig):
    """(params, *inputs) → every output, in one program with one pass through the blocks."""
    vit = ViT(cfg)

    def outputs(vit, images, coordinates=None):
        x = vit.embed_patches(images, coordinates)
        embedded = x[:, cfg.prefix :]
        x, hidden = vit._blocks(x, coordinates, Collect(True))
        last = vit._last(x, coordinates)
        normed = vit._normed(last)
        states = {"embed": embedded, "blocks/0": hidden[0][:, cfg.prefix :], "features": vit._features(x), "last": last}
        return states | {"normed": normed, "pooled": vit._pooled(normed, coordinates)}

    return jax.jit(lambda params, *inputs: vit.apply({"params": params}, *inputs, method=outputs))


def check(kind: str, name: str, model, cfg: ViTConfig, out: dict, theirs) -> None:
    """Parity of all states: the features are hidden_states[-2] (CLIP, SigLIP) or last_hidden_state of transformers."""
    states, prefix = theirs.hidden_states, cfg.prefix
    compare(kind, name, "embeddings", out["embed"], states[0][:, prefix:])
    compare(kind, name, "block 1", out["blocks/0"], states[1][:, prefix:])
    compare(kind, name, "hidden_states[-1]", out["last"], states[-1])
    if cfg.traits.penultimate:
        compare(kind, name, "features = hidden_states[-2]", out["features"], states[-2][:, prefix:])
    else:
        compare(kind, name, "features = last_hidden_state", out["features"], theirs.last_hidden_state[:, prefix:])
        compare(kind, name, "last_hidden_state", out["normed"], theirs.last_hidden_state)
    if "pooler_output" in theirs:
        compare(kind, name, "pooler_output", out["pooled"], theirs.pooler_output)


@pytest.mark.parametrize(("kind", "name"), CASES, ids=map(": ".join, CASES))
def test_states_and_pooled_output_equal_transformers(tmp_path, kind, name):
    model = hf.encoder(kind, seed=len(name), **SHAPES[kind][name])
    cfg, params = loaded(model, tmp_path)
    images = random_images(cfg.image_size)
    check(kind, name, model, cfg, ours(cfg)(params, images), hf.encode(model, images))


@pytest.mark.parametrize(("kind", "name", "size"), RESIZED)
def test_positions_at_another_resolution(tmp_path, kind, name, size):
    """As ``interpolate_pos_encoding=True``; the parameters are those of the checkpoint."""
    model = hf.encoder(kind, **SHAPES.get(kind, {}).get(name, {}))
    cfg, params = loaded(model, tmp_path)
    images = random_images(size)
    small = cfg.resized(size)
    assert small.pos_grid == cfg.grid and small.grid != cfg.grid
    check(kind, f"{name} at {size} pixels", model, small, ours(small)(params, images), hf.encode(model, images, True))


@pytest.mark.parametrize(("size", "new"), [(3, 7), (37, 16), (16, 16), (5, 3), (2, 9)])
def test_resize_matrices_are_torch_s(size, new):
    line = torch.eye(size)[None, :, :, None].expand(1, size, size, size)  # [1, channel, position, width]
    for antialias, matrix in ((False, positions.bicubic(size, new)), (True, positions.antialiased(size, new))):
        settings = dict(size=(new, size), mode="bicubic", align_corners=False, antialias=antialias)
        theirs = torch.nn.functional.interpolate(line, **settings)[0, :, :, 0].T
        compare("positions", f"{size} to {new}", "antialiased" if antialias else "bicubic", matrix, theirs, 1e-5)


@pytest.mark.parametrize("kind", ["clip_vision_model", "dinov2", "vit"])
def test_one_block_to_rounding(tmp_path, kind):
    model = hf.encoder(kind, **SHAPES[kind]["odd"])
    cfg, params = loaded(model, tmp_path)
    x = np.random.default_rng(1).normal(size=(2, 9, cfg.width)).astype(np.float32)
    layer = {"clip_vision_model": "encoder.layers", "dinov2": "encoder.layer", "vit": "layers"}[kind]
    more = {"attention_mask": None} if kind == "clip_vision_model" else {}
    with torch.no_grad():
        theirs = model.get_submodule(f"{layer}.0")(torch.tensor(x), **more)
    block = Block(cfg.heads, cfg.mlp_dim, cfg.eps, cfg.activation, cfg.gated, cfg.traits.layer_scale)
    first = jax.tree.map(lambda leaf: leaf[0], params["blocks"])
    out = jax.jit(lambda p, x: block.apply({"params": p}, x)[0])(first, x)
    compare(kind, "odd", "a block", out, theirs[0] if isinstance(theirs, tuple) else theirs, 1e-5)


def compare_half(kind: str, half: jax.Array, exact: np.ndarray) -> None:
    """To 2 % of the largest value: a bfloat16 number is right to 0.4 %, and three blocks of them add up."""
    scale = np.abs(exact).max()
    compare(kind, "bfloat16", "features / largest", half.astype(jnp.float32) / scale, exact / scale, 0.02)


LATER = pytest.mark.heavy
BF16 = ["clip_vision_model", "dinov2_with_registers"]


REST = ["siglip_vision_model", *(kind for kind in SHAPES if kind not in BF16)]


@pytest.mark.parametrize("kind", [*BF16, *(pytest.param(kind, marks=LATER) for kind in REST)])
@pytest.mark.heavy_after(2)
def test_bfloat16_checkpoint_and_computation(tmp_path, kind):
    """A bfloat16 file computed in bfloat16, compared with transformers in float32 with the same weights."""
    model = hf.encoder(kind).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).vision, hub.load_params(tmp_path)["vision"]
    images = random_images(cfg.image_size)
    exact = hf.encode(model.float(), images)
    half = jax.jit(lambda params: ViT(cfg, "bfloat16").apply({"params": params}, images, method="features"))(params)
    assert half.dtype == jnp.bfloat16
    features = exact.hidden_states[-2] if cfg.traits.penultimate else exact.last_hidden_state
    compare_half(kind, half, features[:, cfg.prefix :].numpy())
    largest = max(
        np.abs(leaf - np.asarray(leaf, jnp.bfloat16).astype(np.float32)).max() for leaf in jax.tree.leaves(params)
    )
    assert largest == 0  # the file's values, exactly


def naflex(model, shapes: list[tuple[int, int]], length: int):
    """Random patches of images with ``shapes`` rows and columns, padded to ``length``: ours, and transformers'."""
    rng, size = np.random.default_rng(3), model.config.patch_size**2 * 3
    patches = rng.normal(size=(len(shapes), length, size)).astype(np.float32)
    where = np.full((len(shapes), length, 2), -1, np.int32)
    for row, (h, w) in enumerate(shapes):
        where[row, : h * w] = np.stack(np.divmod(np.arange(h * w), w), axis=1)
    mask = torch.tensor(where[..., 0] >= 0)
    with torch.no_grad():
        theirs = model(torch.tensor(patches), mask.long(), torch.tensor(shapes), output_hidden_states=True)
    return patches, where, theirs


NAFLEX = {
    "plain": ({}, [(2, 3), (5, 2), (3, 3)], 12),
    "odd": (dict(patch_size=5, hidden_size=20, num_attention_heads=5, num_patches=25), [(1, 7), (9, 3)], 27),
    "no padding": (dict(num_hidden_layers=2, num_patches=49, intermediate_size=17), [(4, 5), (5, 4)], 20),
}


@pytest.mark.heavy
def test_bfloat16_naflex(tmp_path):
    _, shapes, length = NAFLEX["plain"]
    model = hf.encoder("siglip2_vision_model").to(torch.bfloat16)
    cfg, params = loaded(model, tmp_path)
    patches, where, theirs = naflex(model.float(), shapes, length)
    there = where[..., 0] >= 0
    half = ViT(cfg, "bfloat16").apply({"params": params}, patches, where, method="features")
    compare_half("siglip2_vision_model", half[there], theirs.hidden_states[-2].numpy()[there])


@pytest.mark.parametrize("name", NAFLEX)
def test_naflex_states_equal_transformers(tmp_path, name):
    """Positions resized to each image, padding masked, the pooling head too; the order of the patches is free."""
    changes, shapes, length = NAFLEX[name]
    model = hf.encoder("siglip2_vision_model", **changes)
    cfg, params = loaded(model, tmp_path)
    patches, where, theirs = naflex(model, shapes, length)
    run = ours(cfg)
    out, there = run(params, patches, where), where[..., 0] >= 0
    for what, mine, state in (
        ("embeddings", "embed", theirs.hidden_states[0]),
        ("features = hidden_states[-2]", "features", theirs.hidden_states[-2]),
        ("hidden_states[-1]", "last", theirs.hidden_states[-1]),
        ("last_hidden_state", "normed", theirs.last_hidden_state),
    ):
        compare("siglip2_vision_model", name, what, np.asarray(out[mine])[there], state.numpy()[there])
    compare("siglip2_vision_model", name, "pooler_output", out["pooled"], theirs.pooler_output)
    order = np.random.default_rng(4).permutation(length)
    shuffled, moved = run(params, patches[:, order], where[:, order]), there[:, order]
    np.testing.assert_allclose(shuffled["pooled"], out["pooled"], atol=1e-5)
    np.testing.assert_allclose(shuffled["features"][moved], out["features"][:, order][moved], atol=1e-5)


SOON = ["siglip2_vision_model", "clip_vision_model", "dinov2_with_registers"]
OTHERS = ["siglip_vision_model", "dinov2", "vit_mae", "vit"]


@pytest.mark.parametrize("kind", [*SOON, *(pytest.param(kind, marks=LATER) for kind in OTHERS)])
def test_mllm_takes_patch_tokens_and_trains_what_they_need(tmp_path, kind):
    """No class or register token among the image tokens; everything but ``final`` gets a gradient."""
    cfg, params = loaded(hf.encoder(kind), tmp_path)
    model = MLLM(MLLMConfig(cfg, ProjectorConfig(), pairs.CONFIG.decoder))
    if cfg.traits.patch_input:
        where = np.stack(np.divmod(np.arange(9), 3), axis=1)[None, None].repeat(2, 1).astype(np.int32)
        inputs = (random_images(24).reshape(1, 2, 9, 192), where)
    else:
        inputs = (random_images(24)[None],)
    assert model.config.image_tokens == 9

    def cubes(params):
        features = model.apply({"params": {"vision": params}}, *inputs, method="encode_images")
        assert features.shape == (1, 18, cfg.width)
        return (features**3).sum()

    gradients = rules.flatten(jax.jit(jax.grad(cubes))(params))
    checked = {path for path in gradients if not path.endswith("attn/k/bias")}  # key biases cancel in the softmax
    dead = {path for path in checked if not np.abs(gradients[path]).max() > 0}
    assert dead == {path for path in checked if path.startswith("final/")}
    assert bool(dead) == cfg.has_final


def section_of(name: str) -> dict:
    """``config.model`` with this vision encoder."""
    section = configs.base().model.to_dict()
    section["vision"]["name"] = name
    return section


B2 = {  # the dossier's encoders: name, tokens of an image
    "openai/clip-vit-large-patch14": 256,
    "openai/clip-vit-large-patch14-336": 576,
    "google/siglip-base-patch16-384": 576,
    "google/siglip-so400m-patch14-384": 729,
    "google/siglip2-base-patch16-384": 576,
    "google/siglip2-large-patch16-384": 576,
    "google/siglip2-so400m-patch16-384": 576,
    "google/siglip2-giant-opt-patch16-384": 576,
    "facebook/dinov2-giant": 1369,
    "facebook/dinov2-giant@224": 256,
    "facebook/vit-mae-huge": 256,
    "google/vit-huge-patch14-224-in21k": 256,
    "nyu-visionx/moco-v3-vit-b": 196,
}


@pytest.mark.parametrize(("name", "tokens"), B2.items())
def test_token_counts_of_the_papers_encoders(name, tokens):
    """Traced at full size: the features are ``tokens`` patches of the encoder's width."""
    known = zoo.VISION[name.partition("@")[0]]
    model = zoo.build(section_of(name), {"preset": known.preset})
    assert model.image_tokens == tokens
    vit, size = ViT(model.vision), model.vision.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)
    shapes = jax.eval_shape(lambda x: vit.init_with_output(jax.random.key(0), x, method="features"), image)
    assert shapes[0].shape == (1, tokens, known.width)


def test_zoo_is_consistent():
    for name, cfg in ((name, cfg) for name, cfg in zoo.VISION.items() if not cfg.traits.merges):
        assert cfg.preset in cfg.traits.presets, name
        assert (cfg.mean, cfg.std) == (PRESETS[cfg.preset].mean, PRESETS[cfg.preset].std), name
        assert cfg.image_size % cfg.patch_size in (0, 6), name  # only so400m/14 at 384 cuts pixels off


@pytest.mark.parametrize(
    ("name", "preset", "message"),
    [
        ("facebook/dinov2-base", "siglip", "'siglip' is not how .* prepares images .allowed: dinov2, dinov2_224"),
        ("facebook/dinov2-base@", "dinov2", "'facebook/dinov2-base@' ends in no image size"),
        ("facebook/dinov2-base@13", "dinov2", "at least the 14 pixels of a patch"),
        ("google/siglip2-base-patch16-naflex@384", "siglip2", "for an encoder of square images"),
        ("facebook/dinov2-tiny@224", "dinov2", "'facebook/dinov2-tiny' is unknown"),
    ],
)
def test_names_that_the_zoo_rejects(name, preset, message):
    with pytest.raises(UserError, match=message):
        zoo.build(section_of(name), {"preset": preset})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(family="resnet"), "family 'resnet' is unknown; there are: siglip"),
        (dict(registers=4), "registers is 4, which family 'siglip' cannot have"),
        (dict(family="clip", gated=True), "gated is True, which family 'clip' cannot have"),
        (dict(depth=1), "features come from the penultimate block"),
    ],
)
def test_configurations_that_no_encoder_has(changes, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**{**dict(image_size=16, patch_size=8, width=8, depth=2, heads=2, mlp_dim=8), **changes})


def test_inputs_that_an_encoder_does_not_take(tmp_path):
    square = ViTConfig(image_size=16, patch_size=8, width=8, depth=2, heads=2, mlp_dim=8, pool_head=False)
    flexible = dataclasses.replace(square, family="siglip2_naflex")
    image, patches = jnp.zeros((1, 24, 24, 3)), jnp.zeros((1, 4, 192))
    for cfg, inputs, message in (
        (square, (image,), "takes 16x16 RGB images"),
        (flexible, (image,), "takes patches .* and coordinates; got .*, None"),
        (flexible, (patches, jnp.zeros((1, 3, 2), int)), r"takes patches \[b, p, 192\]"),
    ):
        with pytest.raises(ValueError, match=message):
            ViT(cfg).init(jax.random.key(0), *inputs, method="features")
    with pytest.raises(ValueError, match="no pooling head"):
        ViT(square).init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), method="pooled")


FLOPS = {
    "siglip": dict(),
    "clip": dict(family="clip"),
    "dinov2": dict(family="dinov2", gated=True, registers=3),
    "vit": dict(family="vit"),
}


@pytest.mark.parametrize("traits", FLOPS.values(), ids=FLOPS)
def test_counted_flops_are_those_of_the_program(traits):
    """Features, and everything with the pooled vector: matmuls of class token, registers, SwiGLU and pooler too."""
    cfg = ViTConfig(image_size=24, patch_size=8, width=16, depth=3, heads=2, mlp_dim=24, **traits)
    vit, image = ViT(cfg), np.zeros((1, 24, 24, 3), np.float32)
    params = jax.eval_shape(lambda: vit.init(jax.random.key(0), image, method="whole"))
    for method, whole in (("features", False), ("pooled", True)):
        program = jax.make_jaxpr(lambda p, method=method: vit.apply(p, image, method=method))(params)
        np.testing.assert_allclose(traced_flops(program), cfg.flops(whole=whole), rtol=0.01)
