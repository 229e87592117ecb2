"""ViT as transformers has it (supervised, MoCo-v3) and ViT-MAE's encoder, which differ in the modules around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pivot_jax.hub.families import common
from pivot_jax.hub.families.base import VisionFamily
from pivot_jax.hub.families.common import plain, table_pixels
from pivot_jax.hub.fields import Fields
from pivot_jax.hub.names import linear, norm, within
from pivot_jax.models.vit import ViTConfig

DEFAULTS: dict[str, Any] = {
    **common.DEFAULTS,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "qkv_bias": True,
}
POOLER_DEFAULTS = {**DEFAULTS, "pooler_act": "tanh"}

_BLOCK = (
    *norm("ln1", "layernorm_before"),
    *common.VIT_ATTENTION,
    *norm("ln2", "layernorm_after"),
    *linear("mlp/fc1", "intermediate.dense", "d f"),
    *linear("mlp/fc2", "output.dense", "f d"),
)
RULES = (
    *common.VIT_EMBEDDINGS,
    *within(_BLOCK, "vision/blocks/", "encoder.layer.{layer}."),
    *norm("vision/norm", "layernorm"),
)
POOLER = within(linear("pooler", "pooler.dense", "d e"), "vision/final/", when="pool")


def read(raw: Mapping[str, Any], where: str, dropped: bool) -> ViTConfig:
    fields = Fields(raw, POOLER_DEFAULTS, where)
    fields.only("pooler_act", "tanh")
    if raw.get("pooler_output_size") not in (None, fields["hidden_size"]):
        raise fields.fail("pooler_output_size", f"is {raw['pooler_output_size']}; only hidden_size is supported")
    fields.only("qkv_bias", True)
    return common.read(fields, family="vit", pool_head=not dropped)


def read_mae(raw: Mapping[str, Any], where: str, dropped: bool) -> ViTConfig:
    fields = Fields(raw, DEFAULTS, where)
    fields.only("qkv_bias", True)
    return common.read(fields, family="vit_mae", pool_head=False)


def with_pooler(cfg: ViTConfig, keys: Sequence[str]) -> ViTConfig:
    """The pooler, which no config.json tells of: a classifier has none, and a ViTModel may have none."""
    there = not keys or any(key.endswith("pooler.dense.weight") for key in keys)
    return dataclasses.replace(cfg, pool_head=cfg.pool_head and there)


def write(cfg: ViTConfig, final: bool, dtype: str) -> dict[str, Any]:
    """config.json of a ViTModel."""
    return _write(cfg, dtype, VIT)


def write_mae(cfg: ViTConfig, final: bool, dtype: str) -> dict[str, Any]:
    """config.json of a ViTMAEModel that masks nothing."""
    return {**_write(cfg, dtype, MAE), "mask_ratio": 0.0}


def _write(cfg: ViTConfig, dtype: str, family: VisionFamily) -> dict[str, Any]:
    return {
        "architectures": [family.class_name],
        "model_type": family.model_type,
        **plain(cfg, dtype),
        "image_size": table_pixels(cfg),
        "num_hidden_layers": cfg.depth,
        "qkv_bias": True,
    }


VIT = VisionFamily(
    model_type="vit",
    class_name="ViTModel",
    prefix="",
    rules=(*RULES, *POOLER),
    wrapper=r"vit\.",
    ignored=r"classifier\..*|decoder\..*|embeddings\.mask_token",
    renames=(
        (r"^layers\.", "encoder.layer."),
        *common.VIT_RENAMES,
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
    weights_say=with_pooler,
    read=read,
    write=write,
)
MAE = dataclasses.replace(
    VIT,
    model_type="vit_mae",
    class_name="ViTMAEModel",
    rules=RULES,
    weights_say=None,
    read=read_mae,
    write=write_mae,
    note="`mask_ratio` is 0, but ViTMAEModel shuffles the patches all the same; pass increasing `noise` "
    "(`torch.arange(patches)[None].float()`) to keep them in order.",
)
