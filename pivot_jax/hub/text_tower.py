"""The text tower of a SigLIP or SigLIP2 folder, which no other reader needs: for zero-shot classes and retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.hub import names
from pivot_jax.hub.families import common
from pivot_jax.hub.fields import Fields, checked, read_json, section
from pivot_jax.hub.fill import Filler
from pivot_jax.hub.names import Rule, linear, norm, within
from pivot_jax.hub.shards import Shards
from pivot_jax.models.siglip import TextConfig

MODEL_TYPES = ("siglip", "siglip2")
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "projection_size": 0,  # 0: hidden_size
}
RULES = within(
    (
        Rule("embed", "embeddings.token_embedding.weight", "v d -> v d"),
        Rule("pos_embed", "embeddings.position_embedding.weight", "n d -> n d"),
        *within(common.CLIP_BLOCK, "blocks/", "encoder.layers.{layer}."),
        *norm("norm", "final_layer_norm"),
        *linear("head", "head", "d o"),
    ),
    "text/",
    "text_model.",
)


class TextTowerOf(NamedTuple):
    """A text tower and its parameters. The scale and bias of its logits change no order of texts, so are not read."""

    config: TextConfig
    params: dict[str, Any]


def read_text_tower(folder: Path) -> TextTowerOf:
    """Reads the text tower of a whole SigLIP model's folder.

    Raises:
      UserError: another model, or tensors that are missing or of another shape than config.json says.
    """
    raw = read_json(folder / "config.json")
    if raw.get("model_type") not in MODEL_TYPES:
        raise UserError(
            f"{folder}: model_type is {raw.get('model_type')!r}; only a whole SigLIP or SigLIP2 has a text tower"
        )
    config = _config(Fields(section(raw, "text_config", folder / "config.json"), DEFAULTS, f"{folder}/config.json"))
    letters = {
        **{"d": config.width, "e": config.width, "f": config.mlp_dim, "o": config.output},
        **{"v": config.vocab_size, "n": config.max_length, "layers": config.depth},
    }
    found, _ = names.entries(names.Layout(RULES), {"text": letters})
    here = SingleDeviceSharding(jax.local_devices()[0])
    with Shards(folder) as shards:
        keys = {key: key for key in shards.keys}
        for entry in found:
            for key in entry.keys:
                if key not in keys:
                    raise UserError(f"{folder}: '{key}' is missing; is this a whole SigLIP, with its text tower?")
                if shards.shape(key) != entry.their_shape:
                    shapes = f"has shape {list(shards.shape(key))}, expected {list(entry.their_shape)}"
                    raise UserError(f"{shards.where(key)}: '{key}' {shapes}")
        filler = Filler(shards, keys, jnp.float32)
        params = rules.unflatten({entry.path: filler.array(entry, here) for entry in found})
    return TextTowerOf(config, params["text"])


def _config(fields: Fields) -> TextConfig:
    return checked(
        fields.where,
        TextConfig,
        vocab_size=fields["vocab_size"],
        width=fields["hidden_size"],
        depth=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        mlp_dim=fields["intermediate_size"],
        max_length=fields["max_position_embeddings"],
        output=fields["projection_size"] or fields["hidden_size"],
        eps=fields["layer_norm_eps"],
        activation=common.activation(fields),
    )
