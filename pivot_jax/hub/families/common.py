"""Common to the ViT families: keys of config.json, names of a block's tensors, dimensions.

Letters of the rules: d e width, f hidden width of the MLP, n positions, t register tokens, c colour channels, y x
pixels of a patch, w all numbers of a patch, s learned queries of the pooling head. A square matrix has two letters, so
that a rule shows its transposition.
"""

from __future__ import annotations

from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.fields import Fields, checked
from pivot_jax.hub.names import Rule, linear, norm
from pivot_jax.models.vit import ViTConfig

# transformers' defaults that all ViT families share
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
}
PATCHES = "d c y x -> (y x c) d"  # the convolution of patches as a matrix

# ours -> transformers'
ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu", "quick_gelu": "quick_gelu"}


def read(fields: Fields, **own: Any) -> ViTConfig:
    """A section of config.json as an encoder.

    Args:
      own: keys that the family reads itself, in place of those of most families (``depth``, ``mlp_dim``, ...).

    Raises:
      UserError: a number of channels or an activation that is not supported, or sizes that do not fit.
    """
    fields.only("num_channels", 3)
    dimensions = {
        "patch_size": fields.side("patch_size"),
        "width": fields["hidden_size"],
        "depth": fields["num_hidden_layers"],
        "heads": fields["num_attention_heads"],
        "eps": fields["layer_norm_eps"],
        "activation": activation(fields),
    }
    if "image_size" not in own:
        dimensions["image_size"] = fields.side("image_size")
    if "mlp_dim" not in own:
        dimensions["mlp_dim"] = fields["intermediate_size"]
    return checked(fields.where, ViTConfig, **(dimensions | own))


def attention(query: str, key: str, value: str, out: str) -> tuple[Rule, ...]:
    """Names of the four projections of a block's attention."""
    return (
        *linear("attn/q", query, "d e"),
        *linear("attn/k", key, "d e"),
        *linear("attn/v", value, "d e"),
        *linear("attn/out", out, "d e"),
    )


# as ViT's code in transformers names them, which DINOv2 and ViT-MAE took over
VIT_ATTENTION = attention(
    "attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"
)
# transformers 5 has other names in memory: (regex in a key, name in the files on the hub)
VIT_RENAMES = tuple(
    (rf"\battention\.{new}\.", f"attention.{old}.")
    for new, old in (
        ("q_proj", "attention.query"),
        ("k_proj", "attention.key"),
        ("v_proj", "attention.value"),
        ("o_proj", "output.dense"),
    )
)
VIT_EMBEDDINGS = (
    Rule("vision/embed/kernel", "embeddings.patch_embeddings.projection.weight", PATCHES),
    Rule("vision/embed/bias", "embeddings.patch_embeddings.projection.bias", "d -> d"),
    Rule("vision/class_token", "embeddings.cls_token", "1 1 d -> d"),
    Rule("vision/pos_embed", "embeddings.position_embeddings", "1 n d -> n d"),
)
# as CLIP's code names them, which SigLIP took over
CLIP_BLOCK = (
    *norm("ln1", "layer_norm1"),
    *attention("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    *norm("ln2", "layer_norm2"),
    *linear("mlp/fc1", "mlp.fc1", "d f"),
    *linear("mlp/fc2", "mlp.fc2", "f d"),
)


def activation(fields: Fields) -> str:
    """Our name of ``hidden_act``; UserError for one that we do not have."""
    names = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
    if fields["hidden_act"] not in names:
        raise fields.fail("hidden_act", f"is {fields['hidden_act']!r}; supported: {', '.join(names)}")
    return names[fields["hidden_act"]]


def plain(cfg: ViTConfig, dtype: str) -> dict[str, Any]:
    """The keys that all families spell alike."""
    if cfg.activation not in ACTIVATIONS:
        raise UserError(f"transformers has no activation '{cfg.activation}' (there are: {', '.join(ACTIVATIONS)})")
    return {
        "dtype": dtype,
        "hidden_act": ACTIVATIONS[cfg.activation],
        "hidden_size": cfg.width,
        "intermediate_size": cfg.mlp_dim,
        "layer_norm_eps": cfg.eps,
        "num_attention_heads": cfg.heads,
        "num_channels": 3,
        "patch_size": cfg.patch_size,
    }


def penultimate(cfg: ViTConfig, final: bool) -> dict[str, Any]:
    """Depth of a family whose features come from the penultimate block; without ``final``, one layer less.

    transformers ignores ``vision_feature_layer`` here. Our import reads it: the features stay those of the same block.
    """
    depth = {"attention_dropout": 0.0, "num_hidden_layers": cfg.depth if final else cfg.depth - 1}
    return depth if final else {**depth, "vision_feature_layer": -1}


def sizes(cfg: ViTConfig, final: bool) -> dict[str, int]:
    """Sizes of the letters and flags in the ViTs' tables."""
    return {
        **{"d": cfg.width, "e": cfg.width, "f": cfg.mlp_dim, "n": cfg.positions, "s": 1, "t": cfg.registers},
        **{"c": 3, "y": cfg.patch_size, "x": cfg.patch_size, "w": 3 * cfg.patch_size**2},
        **{"layers": cfg.blocks, "final": int(final), "pool": int(final and cfg.has_pool)},
        **{"gated": int(cfg.gated), "plain": int(not cfg.gated), "registers": int(cfg.registers > 0)},
    }


def words(cfg: ViTConfig, final: bool) -> str:
    """Dimensions, for messages."""
    return (
        f"vision of {cfg.depth if final else cfg.blocks} layers, width {cfg.width}, MLP {cfg.mlp_dim}, "
        f"{cfg.image_size}-pixel images, patch {cfg.patch_size}"
    )


def table_pixels(cfg: ViTConfig) -> int:
    """``image_size`` of config.json: that of the position table, which is exported as it is."""
    return cfg.image_size if cfg.pos_side == cfg.grid else cfg.pos_side * cfg.patch_size
