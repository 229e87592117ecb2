"""SigLIP and SigLIP2, of fixed resolution and NaFlex: the vision tower, alone or as half of the dual tower."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pivot_jax.hub.families import common
from pivot_jax.hub.families.base import TEXT_TOWER, VisionFamily
from pivot_jax.hub.families.common import penultimate, plain, table_pixels
from pivot_jax.hub.fields import Fields
from pivot_jax.hub.names import Rule, linear, norm, within
from pivot_jax.models.vit import ViTConfig

DEFAULTS: dict[str, Any] = {
    **common.DEFAULTS,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
NAFLEX_DEFAULTS = {key: value for key, value in DEFAULTS.items() if key != "image_size"} | {"num_patches": 256}

_POOL = (
    Rule("probe", "probe", "s 1 d -> s d"),
    *(
        Rule(f"attn/{name}/{leaf}", f"attention.in_proj_{theirs}", pattern, part=(i, 3))
        for leaf, theirs, pattern in (("kernel", "weight", "e d -> d e"), ("bias", "bias", "e -> e"))
        for i, name in enumerate("qkv")
    ),
    *linear("attn/out", "attention.out_proj", "d e"),
    *norm("ln", "layernorm"),
    *linear("mlp/fc1", "mlp.fc1", "d f"),
    *linear("mlp/fc2", "mlp.fc2", "f d"),
)


def _rules(patches: str) -> tuple[Rule, ...]:
    """``patches``: the patch embedding's pattern."""
    return (
        Rule("vision/embed/kernel", "embeddings.patch_embedding.weight", patches),
        Rule("vision/embed/bias", "embeddings.patch_embedding.bias", "d -> d"),
        Rule("vision/pos_embed", "embeddings.position_embedding.weight", "n d -> n d"),
        *within(common.CLIP_BLOCK, "vision/blocks/", "encoder.layers.{layer}."),
        *within(common.CLIP_BLOCK, "vision/final/block/", "encoder.layers.{last}.", when="final"),
        *within(norm("norm", "post_layernorm"), "vision/final/", when="final"),
        *within(_POOL, "vision/final/pool/", "head.", when="pool"),
    )


def read(raw: Mapping[str, Any], where: str, dropped: bool) -> ViTConfig:
    return _read(Fields(raw, DEFAULTS, where), dropped)


def read_naflex(raw: Mapping[str, Any], where: str, dropped: bool) -> ViTConfig:
    fields = Fields(raw, NAFLEX_DEFAULTS, where)
    side = math.isqrt(fields["num_patches"])
    if side * side != fields["num_patches"]:
        raise fields.fail("num_patches", f"is {fields['num_patches']}, no square; the position table must be one")
    return _read(fields, dropped, image_size=side * fields.side("patch_size"), family="siglip2_naflex")


def _read(fields: Fields, dropped: bool, **own: Any) -> ViTConfig:
    depth, pool_head = fields["num_hidden_layers"] + dropped, fields["vision_use_head"] and not dropped
    return common.read(fields, depth=depth, pool_head=pool_head, **own)


def write(cfg: ViTConfig, final: bool, dtype: str) -> dict[str, Any]:
    """config.json of a SiglipVisionModel; without ``final`` it has one layer less and no head."""
    raw = {"architectures": ["SiglipVisionModel"], "model_type": "siglip_vision_model"}
    return {**raw, "image_size": table_pixels(cfg), **_written(cfg, final, dtype)}


def write_naflex(cfg: ViTConfig, final: bool, dtype: str) -> dict[str, Any]:
    """config.json of a Siglip2VisionModel."""
    raw = {"architectures": ["Siglip2VisionModel"], "model_type": "siglip2_vision_model"}
    return {**raw, "num_patches": cfg.pos_side**2, **_written(cfg, final, dtype)}


def _written(cfg: ViTConfig, final: bool, dtype: str) -> dict[str, Any]:
    return {**penultimate(cfg, final), **plain(cfg, dtype), "vision_use_head": bool(final and cfg.pool_head)}


SIGLIP = VisionFamily(
    model_type="siglip_vision_model",
    class_name="SiglipVisionModel",
    prefix="vision_model.",
    rules=_rules(common.PATCHES),
    spelling=r"(?=embeddings\.|encoder\.|post_layernorm\.|head\.)",
    ignored=TEXT_TOWER,
    read=read,
    write=write,
    processor_class=("SiglipImageProcessor", "BitImageProcessor"),
)
SIGLIP2 = dataclasses.replace(
    SIGLIP,
    model_type="siglip2_vision_model",
    class_name="Siglip2VisionModel",
    rules=_rules("d w -> w d"),
    read=read_naflex,
    write=write_naflex,
    processor_class=("Siglip2ImageProcessor", "Siglip2ImageProcessor"),
)
