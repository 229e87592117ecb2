"""config.json of a Hugging Face folder → our model dataclasses (``folder`` writes it).

Values that transformers leaves out of config.json because they are its defaults are in the ``_..._DEFAULTS``
tables (checked in the tests against transformers' classes). Older spellings are read too: ``rope_theta`` for
``rope_parameters``, ``image_token_id`` for ``image_token_index``. What a family could do but our models do not
(RoPE scaling, sliding windows, other activations) is refused by name instead of being computed wrongly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pivot_jax.config import places
from pivot_jax.errors import UserError
from pivot_jax.hub.fields import Fields, read_json, section
from pivot_jax.hub.names import LAYOUTS
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import MLLMConfig, ProjectorConfig
from pivot_jax.models.vit import ViTConfig

_SIGLIP_DEFAULTS: dict[str, Any] = {
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
_QWEN2_DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "rope_theta": 10000.0,
}
_LLAVA_DEFAULTS: dict[str, Any] = {
    "image_token_index": 32000,
    "projector_hidden_act": "gelu",
    "vision_feature_select_strategy": "default",
    "vision_feature_layer": -2,
    "multimodal_projector_bias": True,
    "tie_word_embeddings": False,
}
# ours -> transformers'
ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu", "quick_gelu": "quick_gelu"}


@dataclass(frozen=True)
class HubModel:
    """What a folder holds. Parts that it lacks are None.

    ``final`` is False where the last vision block was left out of the checkpoint: then ``vision.depth`` still
    counts it, so that the features come from the same block as in the model that the checkpoint was made from.
    """

    model_type: str
    vision: ViTConfig | None = None
    decoder: DecoderConfig | None = None
    projector: ProjectorConfig | None = None
    final: bool = True
    image_token_id: int | None = None

    @property
    def mllm(self) -> MLLMConfig:
        """The whole model's configuration; UserError if the folder holds only a part."""
        if self.vision is None or self.decoder is None or self.projector is None:
            raise UserError(f"a '{self.model_type}' checkpoint is no multimodal LLM; use a LLaVA folder")
        return MLLMConfig(self.vision, self.projector, self.decoder)

    @property
    def summary(self) -> str:
        """Dimensions in words, for messages."""
        parts = []
        if self.vision:
            v = self.vision
            parts.append(
                f"vision of {v.depth - (not self.final)} layers, width {v.width}, MLP {v.mlp_dim}, "
                f"{v.image_size}-pixel images, patch {v.patch_size}"
            )
        if self.decoder:
            d = self.decoder
            parts.append(
                f"decoder of {d.depth} layers, width {d.width}, MLP {d.mlp_dim}, {d.heads} heads, {d.kv_heads} "
                f"key/value heads, vocabulary {d.vocab_size}, {'tied' if d.tied else 'untied'}"
            )
        return " and ".join(parts)


def read(folder: str | Path) -> HubModel:
    """Reads config.json (and the normalisation in preprocessor_config.json, if it is there).

    Raises:
      UserError: no folder, no or broken config.json, an unsupported family or feature.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; fetch one: hf download ORG/NAME --local-dir {folder}")
    path = folder / "config.json"
    raw = read_json(path)
    kind = raw.get("model_type")
    if kind == "siglip_vision_model":
        model = _vision_only(kind, raw, str(path))
    elif kind == "siglip":
        model = _vision_only(kind, section(raw, "vision_config", path), f"{path} vision_config")
    elif kind == "qwen2":
        model = HubModel(kind, decoder=_decoder(raw, str(path)))
    elif kind == "llava":
        model = _llava(raw, path)
    else:
        known = ", ".join(sorted(LAYOUTS))
        reason = f"model_type {kind!r} is not supported" if kind else "there is no model_type"
        raise UserError(f"{path}: {reason} (supported: {known}){places.instead(folder, 'hf')}")
    return _with_normalisation(model, folder)


def sizes(model: HubModel) -> dict[str, dict[str, int]]:
    """Sizes of the letters and flags in ``names``' tables, per part of the model."""
    found: dict[str, dict[str, int]] = {}
    if model.vision:
        v = model.vision
        found["vision"] = {
            **{"d": v.width, "e": v.width, "f": v.mlp_dim, "n": v.patches, "s": 1},
            **{"c": 3, "y": v.patch_size, "x": v.patch_size},
            **{"layers": v.depth - 1, "final": int(model.final), "pool": int(model.final and v.pool_head)},
        }
    if model.decoder:
        d = model.decoder
        found["decoder"] = {
            **{"d": d.width, "v": d.vocab_size, "f": d.mlp_dim},
            **{"q": d.heads * d.head_width, "k": d.kv_heads * d.head_width},
            **{"layers": d.depth, "untied": int(not d.tied)},
        }
    if model.projector and model.vision and model.decoder:
        width = model.decoder.width
        found["projector"] = {"i": model.vision.width, "d": width, "e": width}
    return found


def _vision_only(kind: str, raw: Mapping[str, Any], where: str) -> HubModel:
    dropped = raw.get("vision_feature_layer") == -1
    return HubModel(kind, vision=_vision(raw, where, dropped), final=not dropped)


def _vision(raw: Mapping[str, Any], where: str, dropped: bool) -> ViTConfig:
    fields = Fields(raw, _SIGLIP_DEFAULTS, where)
    fields.only("num_channels", 3)
    names = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
    if fields["hidden_act"] not in names:
        raise fields.fail("hidden_act", f"is {fields['hidden_act']!r}; supported: {', '.join(names)}")
    return _checked(
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


def _decoder(raw: Mapping[str, Any], where: str, tied: bool = False) -> DecoderConfig:
    fields = Fields(raw, _QWEN2_DEFAULTS, where)
    fields.only("hidden_act", "silu")
    fields.only("use_sliding_window", False)
    head_dim = raw.get("head_dim") or 0
    return _checked(
        where,
        DecoderConfig,
        vocab_size=fields["vocab_size"],
        width=fields["hidden_size"],
        depth=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        kv_heads=fields["num_key_value_heads"] if raw.get("num_key_value_heads") else _kv_default(raw, fields),
        mlp_dim=fields["intermediate_size"],
        head_dim=0 if head_dim * fields["num_attention_heads"] == fields["hidden_size"] else head_dim,
        rope_theta=_rope_theta(raw, fields),
        eps=fields["rms_norm_eps"],
        tied=fields["tie_word_embeddings"] or tied,
    )


def _kv_default(raw: Mapping[str, Any], fields: Fields) -> int:
    """transformers: an explicit null means as many as heads; a missing key means the class's default."""
    return fields["num_attention_heads"] if "num_key_value_heads" in raw else fields["num_key_value_heads"]


def _rope_theta(raw: Mapping[str, Any], fields: Fields) -> float:
    for key in ("rope_parameters", "rope_scaling"):
        rope = raw.get(key) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise fields.fail(key, f"asks for '{kind}' positions; only 'default' is supported")
        if "rope_theta" in rope:
            return float(rope["rope_theta"])
    return fields["rope_theta"]


def _llava(raw: Mapping[str, Any], path: Path) -> HubModel:
    fields = Fields(raw, _LLAVA_DEFAULTS, str(path))
    vision, text = section(raw, "vision_config", path), section(raw, "text_config", path)
    for part, key, supported in ((vision, "vision_config", "siglip_vision_model"), (text, "text_config", "qwen2")):
        if part.get("model_type") != supported:
            raise fields.fail(key, f"has model_type {part.get('model_type')!r}; supported: {supported!r}")
    fields.only("projector_hidden_act", "gelu")
    fields.only("multimodal_projector_bias", True)
    if fields["vision_feature_select_strategy"] != "full":
        raise fields.fail("vision_feature_select_strategy", "is 'default', which drops a patch of SigLIP; set 'full'")
    layer, depth = fields["vision_feature_layer"], Fields(vision, _SIGLIP_DEFAULTS, str(path))["num_hidden_layers"]
    behind = layer if layer < 0 else layer - depth - 1  # counted from the end: -1 is the last block's output
    if behind not in (-1, -2):
        raise fields.fail("vision_feature_layer", f"is {layer}; supported: -2 (penultimate block) and -1")
    return HubModel(
        "llava",
        vision=_vision(vision, f"{path} vision_config", behind == -1),
        decoder=_decoder(text, f"{path} text_config", tied=fields["tie_word_embeddings"]),
        projector=ProjectorConfig(layers=2, reused=0),
        final=behind == -2,
        image_token_id=raw.get("image_token_id", fields["image_token_index"]),
    )


def _with_normalisation(model: HubModel, folder: Path) -> HubModel:
    """Mean and deviation from the image processor's file, where there is one (transformers 5 nests it)."""
    if model.vision is None:
        return model
    for name, inside in (("preprocessor_config.json", False), ("processor_config.json", True)):
        raw = read_json(folder / name) if (folder / name).is_file() else {}
        raw = raw.get("image_processor") or {} if inside else raw
        if "image_mean" in raw and "image_std" in raw:
            statistics: dict[str, Any] = {key: tuple(map(float, raw[f"image_{key}"])) for key in ("mean", "std")}
            return dataclasses.replace(model, vision=dataclasses.replace(model.vision, **statistics))
    return model


def _checked(where: str, kind: Any, **values: Any) -> Any:
    """Builds a dataclass; its own complaints get the file's name."""
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
