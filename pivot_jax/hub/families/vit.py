"""ViT as transformers has it (supervised, MoCo-v3) and ViT-MAE's encoder, which differ in what stands around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pivot_jax.hub.families.base import VisionFamily
from pivot_jax.hub.families.common import activation, plain, table_pixels
from pivot_jax.hub.fields import Fields, checked
from pivot_jax.hub.names import Rule, linear, norm, within
from pivot_jax.models.vit import ViTConfig

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
}
POOLER_DEFAULTS = {**DEFAULTS, "pooler_act": "tanh"}

# letters as in siglip.py
_BLOCK = (
    *norm("ln1", "layernorm_before"),
    *linear("attn/q", "attention.attention.query", "d e"),
    *linear("attn/k", "attention.attention.key", "d e"),
    *linear("attn/v", "attention.attention.value", "d e"),
    *linear("attn/out", "attention.output.dense", "d e"),
    *norm("ln2", "layernorm_after"),
    *linear("mlp/fc1", "intermediate.dense", "d f"),
    *linear("mlp/fc2", "output.dense", "f d"),
)
RULES = (
    Rule("vision/embed/kernel", "embeddings.patch_embeddings.projection.weight", "d c y x -> (y x c) d"),
    Rule("vision/embed/bias", "embeddings.patch_embeddings.projection.bias", "d -> d"),
    Rule("vision/class_token", "embeddings.cls_token", "1 1 d -> d"),
    Rule("vision/pos_embed", "embeddings.position_embeddings", "1 n d -> n d"),
    *within(_BLOCK, "vision/blocks/", "encoder.layer.{layer}."),
    *norm("vision/norm", "layernorm"),
)
POOLER = within(linear("pooler", "pooler.dense", "d e"), "vision/final/", when="pool")


def read(raw: Mapping[str, Any], where: str, dropped: bool) -> ViTConfig:
    fields = Fields(raw, POOLER_DEFAULTS, where)
    fields.only("pooler_act", "tanh")
    if raw.get("pooler_output_size") not in (None, fields["hidden_size"]):
        raise fields.fail("pooler_output_size", f"is {raw['pooler_output_size']}; only hidden_size is supported")
    return _read(fields, where, family="vit", pool_head=not dropped)


def read_mae(raw: Mapping[str, Any], where: str, dropped: bool) -> ViTConfig:
    return _read(Fields(raw, DEFAULTS, where), where, family="vit_mae", pool_head=False)


def _read(fields: Fields, where: str, **traits: Any) -> ViTConfig:
    fields.only("num_channels", 3)
    fields.only("qkv_bias", True)
    return checked(
        where,
        ViTConfig,
        image_size=fields.side("image_size"),
        patch_size=fields.side("patch_size"),
        width=fields["hidden_size"],
        depth=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        mlp_dim=fields["intermediate_size"],
        eps=fields["layer_norm_eps"],
        activation=activation(fields),
        **traits,
    )


def held(cfg: ViTConfig, keys: Sequence[str]) -> ViTConfig:
    """Whether there is a pooler stands in no config.json: a classifier has none, and a ViTModel may have none."""
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
        (r"\.attention\.q_proj\.", ".attention.attention.query."),
        (r"\.attention\.k_proj\.", ".attention.attention.key."),
        (r"\.attention\.v_proj\.", ".attention.attention.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
    held=held,
    read=read,
    write=write,
)
MAE = dataclasses.replace(
    VIT,
    model_type="vit_mae",
    class_name="ViTMAEModel",
    rules=RULES,
    held=None,
    read=read_mae,
    write=write_mae,
    note="`mask_ratio` is 0, but ViTMAEModel shuffles the patches all the same; pass increasing `noise` "
    "(`torch.arange(patches)[None].float()`) to keep them in order.",
)
