"""What the config.json files of the vision families have in common."""

from __future__ import annotations

from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.fields import Fields
from pivot_jax.models.vit import ViTConfig

# ours -> transformers'
ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu", "quick_gelu": "quick_gelu"}


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

    transformers passes ``vision_feature_layer`` over here; ours reads it, so that the features stay those of the same
    block.
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
