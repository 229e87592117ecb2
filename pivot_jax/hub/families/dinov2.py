"""DINOv2, without and with register tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.families import common
from pivot_jax.hub.families.base import VisionFamily
from pivot_jax.hub.families.common import plain, table_pixels
from pivot_jax.hub.fields import Fields
from pivot_jax.hub.names import Rule, linear, norm, within
from pivot_jax.models.vit import ViTConfig

DEFAULTS: dict[str, Any] = {
    **common.DEFAULTS,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
REGISTER_DEFAULTS = {**DEFAULTS, "patch_size": 16, "num_register_tokens": 4}

_BLOCK = (
    *norm("ln1", "norm1"),
    *common.VIT_ATTENTION,
    Rule("layer_scale1", "layer_scale1.lambda1", "d -> d"),
    *norm("ln2", "norm2"),
    *within((*linear("mlp/fc1", "mlp.fc1", "d f"), *linear("mlp/fc2", "mlp.fc2", "f d")), when="plain"),
    Rule("layer_scale2", "layer_scale2.lambda1", "d -> d"),
)
# the files on the hub hold gate and up of the SwiGLU in one tensor, those that transformers 5 makes in two
_HALVES = (("mlp/gate", "mlp.gate_proj"), ("mlp/up", "mlp.up_proj"))
_FUSED = (
    *(
        dataclasses.replace(rule, part=(half, 2))
        for half, (ours, _) in enumerate(_HALVES)
        for rule in linear(ours, "mlp.weights_in", "d f")
    ),
    *linear("mlp/down", "mlp.weights_out", "f d"),
)
_APART = (
    *(rule for ours, theirs in _HALVES for rule in linear(ours, theirs, "d f")),
    *linear("mlp/down", "mlp.weights_out", "f d"),
)


def _rules(gated: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return (
        *common.VIT_EMBEDDINGS,
        Rule("vision/register_tokens", "embeddings.register_tokens", "1 t d -> t d", when="registers"),
        *within(_BLOCK, "vision/blocks/", "encoder.layer.{layer}."),
        *within(gated, "vision/blocks/", "encoder.layer.{layer}.", when="gated"),
        *norm("vision/norm", "layernorm"),
    )


def read(raw: Mapping[str, Any], where: str, dropped: bool) -> ViTConfig:
    return _read(Fields(raw, DEFAULTS, where), 0)


def read_registers(raw: Mapping[str, Any], where: str, dropped: bool) -> ViTConfig:
    fields = Fields(raw, REGISTER_DEFAULTS, where)
    if fields["num_register_tokens"] < 1:
        raise fields.fail("num_register_tokens", f"is {fields['num_register_tokens']}; model_type 'dinov2' has none")
    return _read(fields, fields["num_register_tokens"])


def _read(fields: Fields, registers: int) -> ViTConfig:
    fields.only("qkv_bias", True)
    width, gated = fields["hidden_size"], fields["use_swiglu_ffn"]
    hidden = mlp_dim(width, fields["mlp_ratio"], gated)
    return common.read(fields, mlp_dim=hidden, family="dinov2", pool_head=False, registers=registers, gated=gated)


def mlp_dim(width: int, ratio: int, gated: bool) -> int:
    """Hidden width; a SwiGLU has two thirds of an MLP's, rounded up to a multiple of 8."""
    return (int(width * ratio * 2 / 3) + 7) // 8 * 8 if gated else width * ratio


def write(cfg: ViTConfig, final: bool, dtype: str) -> dict[str, Any]:
    """config.json of a Dinov2Model, or of a Dinov2WithRegistersModel."""
    ratio = round(cfg.mlp_dim / cfg.width * (1.5 if cfg.gated else 1))
    if ratio < 1 or mlp_dim(cfg.width, ratio, cfg.gated) != cfg.mlp_dim:
        raise UserError(
            f"DINOv2's hidden width follows from its width {cfg.width} by a whole ratio, and no ratio gives "
            f"mlp_dim={cfg.mlp_dim}; no DINOv2 class of transformers holds this encoder"
        )
    raw = plain(cfg, dtype)
    del raw["intermediate_size"]
    family = REGISTERS if cfg.registers else DINOV2
    kind = {"architectures": [family.class_name], "model_type": family.model_type}
    registers = {"num_register_tokens": cfg.registers} if cfg.registers else {}
    return {
        **kind,
        **raw,
        **registers,
        "image_size": table_pixels(cfg),
        "mlp_ratio": ratio,
        "num_hidden_layers": cfg.depth,
        "qkv_bias": True,
        "use_swiglu_ffn": cfg.gated,
    }


DINOV2 = VisionFamily(
    model_type="dinov2",
    class_name="Dinov2Model",
    prefix="",
    rules=_rules(_FUSED),
    wrapper=r"dinov2(_with_registers)?\.",
    ignored=r"classifier\..*",
    renames=(
        *common.VIT_RENAMES,
        (r"mlp\.down_proj\.", "mlp.weights_out."),
    ),
    variant=(r"mlp\.gate_proj\.", _rules(_APART)),
    zeros=(("embeddings.mask_token", "1 d"),),
    read=read,
    write=write,
)
REGISTERS = dataclasses.replace(
    DINOV2,
    model_type="dinov2_with_registers",
    class_name="Dinov2WithRegistersModel",
    read=read_registers,
)
