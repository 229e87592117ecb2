"""ConvNeXt: the second encoder of the paper's ensembles, or an encoder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pivot_jax.hub.families.base import VisionFamily
from pivot_jax.hub.families.common import ACTIVATIONS, activation
from pivot_jax.hub.fields import Fields, checked
from pivot_jax.hub.names import Rule, linear, norm, within
from pivot_jax.models.convnext import KERNEL, STAGES, ConvNeXtConfig

DEFAULTS: dict[str, Any] = {
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 4,
    "hidden_sizes": [96, 192, 384, 768],
    "depths": [3, 3, 9, 3],
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "layer_scale_init_value": 1e-6,
}
_BICUBIC = 3


def _stage(i: int) -> tuple[Rule, ...]:
    """Stage i: letters d{i} width, f{i} four times that."""
    d, f, before = f"d{i}", f"f{i}", f"d{i - 1}"
    scale = (Rule("norm/scale", "layernorm.weight", f"{d} -> {d}"), Rule("norm/bias", "layernorm.bias", f"{d} -> {d}"))
    block = (
        Rule("conv/kernel", "dwconv.weight", f"{d} 1 ky kx -> ky kx {d}"),
        Rule("conv/bias", "dwconv.bias", f"{d} -> {d}"),
        *scale,
        *linear("mlp/fc1", "pwconv1", f"{d} {f}"),
        *linear("mlp/fc2", "pwconv2", f"{f} {d}"),
        Rule("scale", "layer_scale_parameter", f"{d} -> {d}"),
    )
    stacked = within(block, f"vision/stages_{i}/blocks/", f"encoder.stages.{i}.layers.{{layer}}.", when=f"stage{i}")
    rules = tuple(replace(rule, layers=f"layers{i}") for rule in stacked)
    if not i:
        return rules
    down = (
        Rule("down_norm/scale", "0.weight", f"{before} -> {before}"),
        Rule("down_norm/bias", "0.bias", f"{before} -> {before}"),
        Rule("down/kernel", "1.weight", f"{d} {before} 2y 2x -> 2y 2x {before} {d}"),
        Rule("down/bias", "1.bias", f"{d} -> {d}"),
    )
    prefix = f"encoder.stages.{i}.downsampling_layer."
    return (*within(down, f"vision/stages_{i}/", prefix, when=f"stage{i}"), *rules)


RULES = (
    Rule("vision/stem/kernel", "embeddings.patch_embeddings.weight", "d0 c y x -> y x c d0"),
    Rule("vision/stem/bias", "embeddings.patch_embeddings.bias", "d0 -> d0"),
    Rule("vision/stem_norm/scale", "embeddings.layernorm.weight", "d0 -> d0"),
    Rule("vision/stem_norm/bias", "embeddings.layernorm.bias", "d0 -> d0"),
    *(rule for i in range(STAGES) for rule in _stage(i)),
    *within(norm("norm", "layernorm"), "vision/final/", when="final"),
)


def sizes(cfg: ConvNeXtConfig, final: bool) -> dict[str, int]:
    """Sizes of the letters and flags above."""
    found = {"c": 3, "y": cfg.patch_size, "x": cfg.patch_size, "ky": KERNEL, "kx": KERNEL, "2y": 2, "2x": 2}
    for i in range(STAGES):
        there = i < len(cfg.widths)
        width = cfg.widths[i] if there else 0
        found |= {f"d{i}": width, f"f{i}": 4 * width, f"stage{i}": int(there)}
        found[f"layers{i}"] = cfg.depths[i] if there else 0
    return found | {"d": cfg.width, "final": int(final)}


def words(cfg: ConvNeXtConfig, final: bool) -> str:
    return f"ConvNeXt of depths {cfg.depths}, widths {cfg.widths}, {cfg.image_size}-pixel images"


def read(raw: Mapping[str, Any], where: str, dropped: bool) -> ConvNeXtConfig:
    fields = Fields(raw, DEFAULTS, where)
    fields.only("num_channels", 3)
    if raw.get("num_stages", len(fields["depths"])) != len(fields["depths"]):
        raise fields.fail("num_stages", f"is {raw['num_stages']} but there are {len(fields['depths'])} depths")
    if fields["layer_scale_init_value"] <= 0:
        raise fields.fail("layer_scale_init_value", "is 0: blocks without a layer scale are not supported")
    return checked(
        where,
        ConvNeXtConfig,
        image_size=fields.side("image_size"),
        widths=tuple(fields["hidden_sizes"]),
        depths=tuple(fields["depths"]),
        patch_size=fields.side("patch_size"),
        eps=fields["layer_norm_eps"],
        activation=activation(fields),
    )


def write(cfg: ConvNeXtConfig, final: bool, dtype: str) -> dict[str, Any]:
    """config.json of a ConvNextModel."""
    return {
        "architectures": ["ConvNextModel"],
        "model_type": "convnext",
        "dtype": dtype,
        "depths": list(cfg.depths),
        "hidden_act": ACTIVATIONS[cfg.activation],
        "hidden_sizes": list(cfg.widths),
        "image_size": cfg.image_size,
        "layer_norm_eps": cfg.eps,
        "layer_scale_init_value": 1e-6,
        "num_channels": 3,
        "num_stages": len(cfg.widths),
        "patch_size": cfg.patch_size,
    }


def processor(cfg: ConvNeXtConfig) -> dict[str, Any]:
    """preprocessor_config.json: from 384 pixels on squashed to a square, below that resized and cropped."""
    return {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": cfg.image_size},
        "crop_pct": 0.875,
        "resample": _BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(cfg.mean),
        "image_std": list(cfg.std),
    }


CONVNEXT = VisionFamily(
    model_type="convnext",
    class_name="ConvNextModel",
    prefix="",
    rules=RULES,
    wrapper=r"convnext\.",
    read=read,
    write=write,
    processor=processor,
    sizes=sizes,
    words=words,
    ignored=r"classifier\..*",
)
