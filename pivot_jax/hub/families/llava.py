"""LLaVA as transformers has it, also with the keys of LLaVA's own code (llava_original reads its config.json)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pivot_jax.data.processing.tiles import GRID_SIDE
from pivot_jax.hub.families.base import BUFFERS, TOWER, HubModel
from pivot_jax.hub.families.parts import LANGUAGES, TOWERS, text_of, vision_of
from pivot_jax.hub.fields import Fields, section
from pivot_jax.hub.names import Layout, Rule, linear, within
from pivot_jax.models.mllm import ProjectorConfig
from pivot_jax.models.vit import ViTConfig

DEFAULTS: dict[str, Any] = {
    "image_token_index": 32000,
    "projector_hidden_act": "gelu",
    "vision_feature_select_strategy": "default",
    "vision_feature_layer": -2,
    "multimodal_projector_bias": True,
    "tie_word_embeddings": False,
}

# i image feature width, d e decoder width
PROJECTOR = (
    *linear("projector/fc1", "linear_1", "i d"),
    *linear("projector/fc2", "linear_2", "d e"),
)
CLASS, TILED_CLASS = "LlavaForConditionalGeneration", "LlavaOnevisionForConditionalGeneration"
ASPECT = "anyres_max_9"
NEWLINE = Rule("projector/newline", "image_newline", "d -> d", when="newline")
TILES = GRID_SIDE**2 + 1  # of LLaVA-OneVision's processor: all grids, and the overview
ONEVISION = DEFAULTS | {
    "image_token_index": 151646,
    "vision_feature_select_strategy": "full",
    "vision_feature_layer": -1,
    "vision_aspect_ratio": ASPECT,
}


def read(raw: Mapping[str, Any], path: Path) -> HubModel:
    return _read(Fields(raw, DEFAULTS, str(path)), raw, path)


def read_onevision(raw: Mapping[str, Any], path: Path) -> HubModel:
    """A LlavaOnevisionForConditionalGeneration; its video settings are not read."""
    fields = Fields(raw, ONEVISION, str(path))
    fields.only("vision_aspect_ratio", ASPECT)
    model = _read(fields, raw, path)
    assert model.vision is not None
    if (grids := raw.get("image_grid_pinpoints")) is not None and _pinpoints(model.vision.image_size) != sorted(grids):
        raise fields.fail(
            "image_grid_pinpoints",
            f"are not all grids of up to {GRID_SIDE}x{GRID_SIDE} tiles of {model.vision.image_size} pixels, the only "
            "ones supported",
        )
    return replace(model, model_type="llava_onevision", projector=ProjectorConfig(2, 0, newline=True), max_tiles=TILES)


def _pinpoints(tile: int) -> list[list[int]]:
    sides = [tile * count for count in range(1, GRID_SIDE + 1)]
    return [[height, width] for height in sides for width in sides]


def _read(fields: Fields, raw: Mapping[str, Any], path: Path) -> HubModel:
    vision, text = section(raw, "vision_config", path), section(raw, "text_config", path)
    tower, language = (
        _part(fields, part, key, known)
        for part, key, known in ((vision, "vision_config", TOWERS), (text, "text_config", LANGUAGES))
    )
    fields.only("projector_hidden_act", "gelu")
    fields.only("multimodal_projector_bias", True)
    where = f"{path} vision_config"
    layer = fields["vision_feature_layer"]
    encoder = tower.read(vision, where, layer == -1)
    if not encoder.traits.penultimate or encoder.traits.patch_input:
        raise fields.fail("vision_config", f"is a '{tower.model_type}', which LLaVA does not take features of as we do")
    if fields["vision_feature_select_strategy"] != strategy(encoder):
        drops = "drops a patch of" if strategy(encoder) == "full" else "takes the class token for a patch of"
        found = fields["vision_feature_select_strategy"]
        reason = f"is '{found}', which {drops} '{tower.model_type}'; set '{strategy(encoder)}'"
        raise fields.fail("vision_feature_select_strategy", reason)
    # Counted from the end -1 is the last block's output: as if there were one more block, which was left out.
    counted = layer if layer < 0 else layer - encoder.depth - 1
    if counted not in (-1, -2):
        raise fields.fail("vision_feature_layer", f"is {layer}; supported: -2 (penultimate block) and -1")
    return HubModel(
        "llava",
        vision=encoder if layer == counted else tower.read(vision, where, counted == -1),
        decoder=language.read(text, f"{path} text_config", fields["tie_word_embeddings"]),
        projector=ProjectorConfig(layers=2, reused=0),
        final=counted == -2,
        image_token_id=raw.get("image_token_id", fields["image_token_index"]),
    )


def strategy(vision: ViTConfig) -> str:
    """``vision_feature_select_strategy``: "default" drops the first token, which is CLIP's class token."""
    return "default" if vision.traits.class_token else "full"


def _part(fields: Fields, raw: Mapping[str, Any], key: str, known: Mapping[str, Any]) -> Any:
    kind = str(raw.get("model_type"))
    if kind not in known:
        raise fields.fail(key, f"has model_type {kind!r}; supported: {', '.join(map(repr, known))}")
    return known[kind]


def layout(model: HubModel) -> Layout:
    """Names of the files on the hub; spellings of transformers 5, and of LLaVA-NeXT's own code."""
    assert model.vision is not None and model.decoder is not None
    tower, language = vision_of(model.vision), text_of(model.decoder)
    return Layout(
        (
            *within(tower.rules, theirs=f"vision_tower.{tower.prefix}"),
            *within(PROJECTOR, theirs="multi_modal_projector."),
            NEWLINE,
            *within(language.rules, theirs="language_model."),
        ),
        (
            (rf"{TOWER}({re.escape(tower.prefix)})?", f"vision_tower.{tower.prefix}"),
            (r"(model\.)?multi_modal_projector\.", "multi_modal_projector."),
            (r"(model\.)?image_newline", "image_newline"),
            (r"model\.mm_projector\.0\.", "multi_modal_projector.linear_1."),  # LLaVA-NeXT's own code
            (r"model\.mm_projector\.2\.", "multi_modal_projector.linear_2."),
            (r"(language_model\.)?lm_head\.", "language_model.lm_head."),
            (r"model\.language_model\.(model\.)?", "language_model.model."),
            (r"language_model\.model\.", "language_model.model."),
            (r"model\.(?=embed_tokens\.|layers\.|norm\.)", "language_model.model."),
        ),
        BUFFERS,
    )


def write(vision: Mapping[str, Any], text: Mapping[str, Any], image_token_id: int, cfg: ViTConfig) -> dict[str, Any]:
    """config.json of a LlavaForConditionalGeneration from its two parts' objects."""
    vision = dict(vision)
    layer = vision.pop("vision_feature_layer", -2)
    return {
        "architectures": [CLASS],
        "model_type": "llava",
        "dtype": text["dtype"],
        "image_seq_length": cfg.patches,
        "image_token_index": image_token_id,
        "multimodal_projector_bias": True,
        "projector_hidden_act": "gelu",
        "text_config": dict(text),
        "tie_word_embeddings": text["tie_word_embeddings"],
        "vision_config": vision,
        "vision_feature_layer": layer,
        "vision_feature_select_strategy": strategy(cfg),
    }


def write_onevision(
    vision: Mapping[str, Any], text: Mapping[str, Any], image_token_id: int, cfg: ViTConfig
) -> dict[str, Any]:
    """config.json of a LlavaOnevisionForConditionalGeneration from its two parts' objects."""
    return {
        **write(vision, text, image_token_id, cfg),
        "architectures": [TILED_CLASS],
        "model_type": "llava_onevision",
        "image_grid_pinpoints": _pinpoints(cfg.image_size),
        "vision_aspect_ratio": ASPECT,
    }


def onevision_processor(cfg: ViTConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json from that of the tower."""
    return {
        **settings,
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": _pinpoints(cfg.image_size),
        "do_pad": True,
    }
