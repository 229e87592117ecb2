"""Folders of every vision family: spellings of keys, classes around an encoder, export, processors."""

from __future__ import annotations

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from pivot_jax import hub, rules
from pivot_jax.cli.main import main
from pivot_jax.data.processing import images
from pivot_jax.errors import UserError
from pivot_jax.hub import processors
from pivot_jax.models.vit import FAMILIES, ViT, ViTConfig
from pivot_jax.train.open import open_encoder
from tests.tiny import hf
from tests.tiny.processing import normalise

KINDS = list(hf.ENCODERS)
SWIGLU = dict(use_swiglu_ffn=True, mlp_ratio=4)


def same(a, b) -> None:
    a, b = rules.flatten(a), rules.flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


def hub_spelling(key: str) -> str:
    """A key of transformers 5 in memory as the files on the Hugging Face hub have it."""
    key = re.sub(r"^layers\.", "encoder.layer.", key)
    for new, old in (("q_proj", "attention.query"), ("k_proj", "attention.key"), ("v_proj", "attention.value")):
        key = key.replace(f".attention.{new}.", f".attention.{old}.")
    return key.replace("attention.o_proj", "attention.output.dense")


def vit_hub_spelling(key: str) -> str:
    return hub_spelling(key).replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")


@pytest.mark.parametrize(
    ("kind", "old", "wrapper"),
    [("dinov2", hub_spelling, "dinov2."), ("dinov2_with_registers", hub_spelling, "dinov2_with_registers."),
     ("vit", vit_hub_spelling, "vit."), ("vit_mae", vit_hub_spelling, "vit."),
     ("clip_vision_model", lambda key: f"vision_model.{key}", "vision_tower."),
     ("siglip2_vision_model", lambda key: f"vision_model.{key}", "vision_tower.")],
)  # fmt: skip
def test_spellings_of_keys(tmp_path, kind, old, wrapper):
    """transformers 5 in memory, the hub's files, and both within a wrapper; the export writes the hub's."""
    model = hf.encoder(kind)
    names = set(model.state_dict())
    hf.save(model, tmp_path)
    expected = hub.load_params(tmp_path)
    hf.rewrite(tmp_path, lambda key: wrapper + key)
    same(hub.load_params(tmp_path), expected)
    hf.save(model, tmp_path)
    hf.rewrite(tmp_path, old)
    same(hub.load_params(tmp_path), expected)
    hub.export_encoder(expected, hub.read_config(tmp_path).vision, tmp_path / "out")
    buffers = {key for key in names if "position_ids" in key}
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == {old(key) for key in names - buffers}
    hf.rewrite(tmp_path, lambda key: wrapper + key)
    same(hub.load_params(tmp_path), expected)


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers"])
def test_swiglu_in_one_tensor_and_in_two(tmp_path, kind):
    model = hf.encoder(kind, **SWIGLU)
    hf.save(model, tmp_path)
    apart = load_file(tmp_path / "model.safetensors")
    expected, cfg = hub.load_params(tmp_path), hub.read_config(tmp_path).vision
    hub.export_encoder(expected, cfg, tmp_path / "out")
    fused = load_file(tmp_path / "out" / "model.safetensors")
    assert cfg.mlp_dim == 64 and not any("gate_proj" in key for key in fused)
    for leaf in ("weight", "bias"):
        halves = [apart[f"encoder.layer.1.mlp.{name}_proj.{leaf}"] for name in ("gate", "up")]
        np.testing.assert_array_equal(fused[f"encoder.layer.1.mlp.weights_in.{leaf}"], np.concatenate(halves))
    same(hub.load_params(tmp_path / "out"), expected)


CONFIGS = {kind: {} for kind in KINDS} | {"dinov2_with_registers": SWIGLU}


@pytest.mark.parametrize("kind", KINDS)
def test_exported_encoder_in_transformers(tmp_path, kind):
    """Import, export, import is bitwise; the export loads whole and computes the same."""
    hf.save(hf.encoder(kind, seed=3, **CONFIGS[kind]), tmp_path / "in")
    cfg, params = hub.read_config(tmp_path / "in").vision, hub.load_params(tmp_path / "in")
    hub.export_encoder(params, cfg, tmp_path / "out", hub.ExportOptions(note="From a test."))
    same(hub.load_params(tmp_path / "out"), params)
    assert hub.read_config(tmp_path / "out").vision == cfg
    load = hf.ENCODERS[kind].from_pretrained
    first, _ = load(tmp_path / "in", output_loading_info=True)
    model, info = load(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]) or "mask_token" in name, name
    card = (tmp_path / "out" / "README.md").read_text()
    assert type(model).__name__ in card and "From a test." in card
    state = "`hidden_states[-2]" if cfg.traits.penultimate else f"`last_hidden_state[:, {cfg.prefix}:]`"
    assert state in card


@pytest.mark.parametrize("kind", ["clip_vision_model", "siglip2_vision_model"])
def test_the_last_block_left_out(tmp_path, kind):
    hf.save(hf.encoder(kind), tmp_path / "in")
    cfg, params = hub.read_config(tmp_path / "in").vision, hub.load_params(tmp_path / "in", final=False)
    with pytest.raises(UserError, match=r"hold no vision/final .*writes one of 2 layers"):
        hub.export_encoder(params, cfg, tmp_path / "no")
    hub.export_encoder(params, cfg, tmp_path / "out", drop_last=True)
    same(hub.load_params(tmp_path / "out"), params)
    assert hub.read_config(tmp_path / "out").vision == dataclasses.replace(cfg, pool_head=False)
    model, info = hf.ENCODERS[kind].from_pretrained(tmp_path / "out", output_loading_info=True)
    assert len(model.encoder.layers) == 2 and not info["missing_keys"] and not info["unexpected_keys"]


def test_vit_with_and_without_its_pooler(tmp_path):
    """What config.json does not say is taken from the weights: a ViTModel may have no pooler."""
    hf.save(hf.encoder("vit"), tmp_path / "in")
    cfg, params = hub.read_config(tmp_path / "in").vision, hub.load_params(tmp_path / "in")
    assert cfg.pool_head and "pooler" in params["vision"]["final"]
    bare = {"vision": {name: leaf for name, leaf in params["vision"].items() if name != "final"}}
    with pytest.raises(UserError, match=r"hold no vision/final \(pooler\).*writes one without it"):
        hub.export_encoder(bare, cfg, tmp_path / "no")
    hub.export_encoder(bare, cfg, tmp_path / "out", drop_last=True)
    same(hub.load_params(tmp_path / "out"), bare)
    assert not hub.read_config(tmp_path / "out").vision.pool_head
    images = np.random.default_rng(0).normal(size=(1, 24, 24, 3)).astype(np.float32)
    without = dataclasses.replace(cfg, pool_head=False)
    model = transformers.ViTModel.from_pretrained(tmp_path / "out", add_pooling_layer=False)
    pooled = jax.jit(lambda p: ViT(without).apply({"params": p}, images, method="pooled"))(bare["vision"])
    assert hf.max_gap(pooled, hf.encode(model, images).last_hidden_state[:, 0]) <= 1e-4


AROUND = {
    "ViTForImageClassification": "vit",
    "ViTMAEForPreTraining": "vit_mae",
    "Dinov2ForImageClassification": "dinov2",
    "CLIPVisionModelWithProjection": "clip_vision_model",
}


@pytest.mark.parametrize(("class_name", "kind"), AROUND.items())
def test_encoder_of_a_class_around_it(tmp_path, class_name, kind):
    """A classifier, a masked autoencoder with its decoder, a projection: the encoder in it is read alone."""
    small = dict(decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)
    config = hf.encoder_config(kind, **(small if kind == "vit_mae" else {}))
    model = getattr(transformers, class_name)(config)
    model.save_pretrained(tmp_path / "whole")
    inner = model.base_model if kind != "clip_vision_model" else model.vision_model
    hf.save(inner, tmp_path / "encoder", config)
    same(hub.load_params(tmp_path / "whole"), hub.load_params(tmp_path / "encoder"))
    assert hub.read_config(tmp_path / "whole").vision == hub.read_config(tmp_path / "encoder").vision


@pytest.mark.parametrize(("dual", "kind"), [("CLIP", "clip_vision_model"), ("Siglip2", "siglip2_vision_model")])
def test_vision_half_of_a_dual_tower(tmp_path, dual, kind):
    text = dict(hidden_size=24, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    vision = hf.encoder_config(kind).to_dict()
    model = getattr(transformers, f"{dual}Model")(
        getattr(transformers, f"{dual}Config")(text_config=text, vision_config=vision)
    )
    model.save_pretrained(tmp_path / "dual")
    hf.save(model.vision_model, tmp_path / "vision", hf.encoder_config(kind))
    same(hub.load_params(tmp_path / "dual"), hub.load_params(tmp_path / "vision"))
    assert hub.read_config(tmp_path / "dual").vision == hub.read_config(tmp_path / "vision").vision


def test_resized_positions_are_exported_as_they_are(tmp_path):
    """The table stays the checkpoint's; config.json has its size, the processor that of the images."""
    hf.save(hf.encoder("dinov2"), tmp_path / "in")
    cfg, params = hub.read_config(tmp_path / "in").vision.resized(40), hub.load_params(tmp_path / "in")
    hub.export_encoder(params, cfg, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["image_size"] == 24
    assert (cfg.pos_grid, cfg.grid) == (3, 5) and hub.read_config(tmp_path / "out").vision == cfg
    same(hub.load_params(tmp_path / "out"), params)
    images = np.random.default_rng(0).normal(size=(1, 40, 40, 3)).astype(np.float32)
    model = transformers.Dinov2Model.from_pretrained(tmp_path / "out")
    ours = jax.jit(lambda p: ViT(cfg).apply({"params": p}, images, method="features"))(params["vision"])
    assert hf.max_gap(ours, hf.encode(model, images).last_hidden_state[:, 1:]) <= 1e-4


def test_an_imported_pack_keeps_preset_size_and_table(tmp_path):
    """``import-hf`` and back open the same encoder: images by the folder's processor, positions resized."""
    hf.save(hf.encoder("dinov2_with_registers"), tmp_path / "hf")
    cfg = dataclasses.replace(hub.read_config(tmp_path / "hf").vision.resized(40), preset="dinov2_224")
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(processors.write(cfg)))
    assert main(["import-hf", "--folder", str(tmp_path / "hf"), "--workdir", str(tmp_path / "pack")]) == 0
    for kind in ("hf", "pack"):
        opened = open_encoder(f"{kind}:{tmp_path / kind}")
        assert (opened.geometry.preset, opened.geometry.size, opened.module.config.vision) == ("dinov2_224", 40, cfg)
        same(opened.params["vision"], hub.load_params(tmp_path / "hf")["vision"])


def test_no_dinov2_class_has_any_mlp_width(tmp_path):
    hf.save(hf.encoder("dinov2"), tmp_path / "in")
    cfg = dataclasses.replace(hub.read_config(tmp_path / "in").vision, mlp_dim=50)
    with pytest.raises(UserError, match="no ratio gives mlp_dim=50"):
        hub.export_encoder(hub.load_params(tmp_path / "in"), cfg, tmp_path / "out")


def cropped(short: int, size: int) -> dict:
    return {"size": {"shortest_edge": short}, "crop_size": {"height": size, "width": size}, "resample": 3}


def squashed(size: int, resample: int) -> dict:
    return {"size": {"height": size, "width": size}, "resample": resample}


PROCESSORS = {  # as the files on the hub have them, older spellings too
    "CLIP, before 4.26": ("clip_vision_model", {"size": 224, "crop_size": 224, "do_center_crop": True}, "clip", 224),
    "CLIP": ("clip_vision_model", cropped(336, 336), "clip", 336),
    "DINOv2": ("dinov2", cropped(256, 224), "dinov2_224", 224),
    "DINOv2, PIVOT": ("dinov2", cropped(24, 24), "dinov2", 24),
    "ViT, before 4.26": ("vit", {"size": 224, "resample": 2}, "vit", 224),
    "ViT-MAE": ("vit_mae", squashed(224, 2), "vit_imagenet", 224),
    "SigLIP": ("siglip_vision_model", squashed(24, 3), "siglip", 24),
    "SigLIP2": ("siglip_vision_model", squashed(24, 2), "siglip2", 24),
}


@pytest.mark.parametrize(("kind", "raw", "preset", "size"), PROCESSORS.values(), ids=PROCESSORS)
def test_preset_and_size_come_from_the_processor(tmp_path, kind, raw, preset, size):
    hf.encoder_config(kind).save_pretrained(tmp_path)
    statistics = {"image_mean": images.PRESETS[preset].mean, "image_std": images.PRESETS[preset].std}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(raw | statistics))
    cfg = hub.read_config(tmp_path).vision
    assert (cfg.preset, cfg.image_size, cfg.pos_side) == (preset, size, 3)
    assert (cfg.mean, cfg.std) == (images.PRESETS[preset].mean, images.PRESETS[preset].std)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processors.write(cfg)))
    assert hub.read_config(tmp_path).vision == cfg


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"size": {"height": 20, "width": 24}}, "is not a square"),
        ({"size": {"height": 30, "width": 30}, "crop_size": 24}, "squashed to 30 and cropped to 24, which no preset"),
        ({"size": {"shortest_edge": 24}}, "without a crop, which gives no squares"),
        (
            {"size": {"shortest_edge": 30}, "crop_size": 24},
            r"no preset .* resizes to .*remove the file to use 'clip'",
        ),
        ({"size": {"height": 24, "width": 24}, "resample": 0}, "with resample 0"),
    ],
)
def test_processors_that_no_preset_equals(tmp_path, raw, message):
    hf.encoder_config("clip_vision_model").save_pretrained(tmp_path)
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(raw | statistics))
    with pytest.raises(UserError, match=message):
        hub.read_config(tmp_path)


def photo() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (40, 61, 3), dtype=np.uint8)


@pytest.mark.parametrize("preset", ["siglip", "siglip2", "clip", "dinov2", "dinov2_224", "vit", "vit_imagenet"])
def test_exported_processor_does_as_the_preset(tmp_path, preset):
    """Within one grey level, for the folder's processor on Pillow."""
    family = next(name for name, traits in FAMILIES.items() if preset in traits.presets and not traits.patch_input)
    rule = images.PRESETS[preset]
    cfg = ViTConfig(24, 8, 8, 2, 1, 8, family=family, preset=preset, mean=rule.mean, std=rule.std)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processors.write(cfg)))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    theirs = processor(photo(), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    ours = normalise(images.preprocess(images.load(photo()), preset, 24), preset)
    assert np.abs(ours - theirs).max() <= 1.01 / 255 / min(rule.std)
