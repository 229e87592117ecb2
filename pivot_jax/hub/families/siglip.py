"""SigLIP and SigLIP2 of fixed resolution: the vision tower, alone or as half of the dual tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.families.base import VisionFamily
from pivot_jax.hub.fields import Fields, checked
from pivot_jax.hub.names import Rule, linear, norm, within
from pivot_jax.models.vit import ViTConfig

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
# ours -> transformers'
ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu", "quick_gelu": "quick_gelu"}
_BICUBIC = 3  # PIL's code, as transformers writes it

# d e width, f hidden width of the MLP, n positions, c colour channels, y x pixels of a patch
# (a square matrix needs two letters, so that its transposition shows); s learned queries of the pooling head
_BLOCK = (
    *norm("ln1", "layer_norm1"),
    *linear("attn/q", "self_attn.q_proj", "d e"),
    *linear("attn/k", "self_attn.k_proj", "d e"),
    *linear("attn/v", "self_attn.v_proj", "d e"),
    *linear("attn/out", "self_attn.out_proj", "d e"),
    *norm("ln2", "layer_norm2"),
    *linear("mlp/fc1", "mlp.fc1", "d f"),
    *linear("mlp/fc2", "mlp.fc2", "f d"),
)
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
RULES = (
    Rule("vision/embed/kernel", "embeddings.patch_embedding.weight", "d c y x -> (y x c) d"),
    Rule("vision/embed/bias", "embeddings.patch_embedding.bias", "d -> d"),
    Rule("vision/pos_embed", "embeddings.position_embedding.weight", "n d -> n d"),
    *within(_BLOCK, "vision/blocks/", "encoder.layers.{layer}."),
    *within(_BLOCK, "vision/final/block/", "encoder.layers.{last}.", when="final"),
    *within(norm("norm", "post_layernorm"), "vision/final/", when="final"),
    *within(_POOL, "vision/final/pool/", "head.", when="pool"),
)


def read(raw: Mapping[str, Any], where: str, dropped: bool) -> ViTConfig:
    fields = Fields(raw, DEFAULTS, where)
    fields.only("num_channels", 3)
    names = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
    if fields["hidden_act"] not in names:
        raise fields.fail("hidden_act", f"is {fields['hidden_act']!r}; supported: {', '.join(names)}")
    return checked(
        where,
        ViTConfig,
        image_size=fields.side("image_size"),
        patch_size=fields.side("patch_size"),
        width=fields["hidden_size"],
        depth=fields["num_hidden_layers"] + dropped,
        heads=fields["num_attention_heads"],
        mlp_dim=fields["intermediate_size"],
        eps=fields["layer_norm_eps"],
        activation=names[fields["hidden_act"]],
        pool_head=fields["vision_use_head"] and not dropped,
    )


def write(cfg: ViTConfig, final: bool, dtype: str) -> dict[str, Any]:
    """config.json of a SiglipVisionModel; without ``final`` it has one layer less and no head."""
    if cfg.activation not in ACTIVATIONS:
        raise UserError(f"SigLIP has no activation '{cfg.activation}' (there are: {', '.join(ACTIVATIONS)})")
    raw = {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
        "dtype": dtype,
        "attention_dropout": 0.0,
        "hidden_act": ACTIVATIONS[cfg.activation],
        "hidden_size": cfg.width,
        "image_size": cfg.image_size,
        "intermediate_size": cfg.mlp_dim,
        "layer_norm_eps": cfg.eps,
        "num_attention_heads": cfg.heads,
        "num_channels": 3,
        "num_hidden_layers": cfg.depth if final else cfg.depth - 1,
        "patch_size": cfg.patch_size,
        "vision_use_head": bool(final and cfg.pool_head),
    }
    # transformers passes this key over here; ours reads it, so that the features stay those of the same block
    return raw if final else {**raw, "vision_feature_layer": -1}


def processor(cfg: ViTConfig) -> dict[str, Any]:
    """preprocessor_config.json: squash to a square with bicubic interpolation, then normalise."""
    return {
        "image_processor_type": "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": cfg.image_size, "width": cfg.image_size},
        "resample": _BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(cfg.mean),
        "image_std": list(cfg.std),
    }


def sizes(cfg: ViTConfig, final: bool) -> dict[str, int]:
    """Sizes of the letters and flags above."""
    return {
        **{"d": cfg.width, "e": cfg.width, "f": cfg.mlp_dim, "n": cfg.patches, "s": 1},
        **{"c": 3, "y": cfg.patch_size, "x": cfg.patch_size},
        **{"layers": cfg.depth - 1, "final": int(final), "pool": int(final and cfg.pool_head)},
    }


def words(cfg: ViTConfig, final: bool) -> str:
    return (
        f"vision of {cfg.depth - (not final)} layers, width {cfg.width}, MLP {cfg.mlp_dim}, "
        f"{cfg.image_size}-pixel images, patch {cfg.patch_size}"
    )


SIGLIP = VisionFamily(
    model_type="siglip_vision_model",
    class_name="SiglipVisionModel",
    prefix="vision_model.",
    rules=RULES,
    spelling=r"(?=embeddings\.|encoder\.|post_layernorm\.|head\.)",
    read=read,
    write=write,
    processor=processor,
    sizes=sizes,
    words=words,
)
