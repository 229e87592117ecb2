"""CLIP: the vision tower, alone or as half of the dual tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pivot_jax.hub.families import common
from pivot_jax.hub.families.base import TEXT_TOWER, VisionFamily
from pivot_jax.hub.families.common import penultimate, plain, table_pixels
from pivot_jax.hub.fields import Fields
from pivot_jax.hub.names import Rule, norm, within
from pivot_jax.models.vit import ViTConfig

DEFAULTS: dict[str, Any] = {
    **common.DEFAULTS,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
RULES = (
    Rule("vision/embed/kernel", "embeddings.patch_embedding.weight", common.PATCHES),
    Rule("vision/class_token", "embeddings.class_embedding", "d -> d"),
    Rule("vision/pos_embed", "embeddings.position_embedding.weight", "n d -> n d"),
    *norm("vision/pre_norm", "pre_layrnorm"),  # their spelling
    *within(common.CLIP_BLOCK, "vision/blocks/", "encoder.layers.{layer}."),
    *within(common.CLIP_BLOCK, "vision/final/block/", "encoder.layers.{last}.", when="final"),
    *within(norm("norm", "post_layernorm"), "vision/final/", when="final"),
)


def read(raw: Mapping[str, Any], where: str, dropped: bool) -> ViTConfig:
    fields = Fields(raw, DEFAULTS, where)
    return common.read(fields, depth=fields["num_hidden_layers"] + dropped, family="clip", pool_head=False)


def write(cfg: ViTConfig, final: bool, dtype: str) -> dict[str, Any]:
    """config.json of a CLIPVisionModel; without ``final`` it has one layer less."""
    raw = {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", "image_size": table_pixels(cfg)}
    return {**raw, **penultimate(cfg, final), **plain(cfg, dtype)}


CLIP = VisionFamily(
    model_type="clip_vision_model",
    class_name="CLIPVisionModel",
    prefix="vision_model.",
    rules=RULES,
    spelling=r"(?=embeddings\.|pre_layrnorm\.|encoder\.|post_layernorm\.)",
    ignored=TEXT_TOWER,
    read=read,
    write=write,
    processor_class=("ViTImageProcessor", "CLIPImageProcessor"),
)
