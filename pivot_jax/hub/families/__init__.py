"""Families of Hugging Face checkpoints: one file each; ``FOLDERS`` has the kinds of folders by model_type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.families import llava, llava_original, qwen_vl
from pivot_jax.hub.families.base import BUFFERS, TOWER, Folder, HubModel, TextFamily, VisionFamily
from pivot_jax.hub.families.parts import LANGUAGES, TOWERS, text_of, vision_of, vision_sizes, vision_words
from pivot_jax.hub.fields import section
from pivot_jax.hub.names import Layout, within
from pivot_jax.hub.shards import keys_of

__all__ = [
    "FOLDERS",
    "LANGUAGES",
    "TOWERS",
    "Folder",
    "HubModel",
    "TextFamily",
    "VisionFamily",
    "layout_of",
    "summary",
    "text_of",
    "vision_of",
    "vision_sizes",
    "vision_words",
]


def _encoder(family: VisionFamily, kind: str = "", section_key: str = "") -> Folder:
    """An encoder's folder; or a dual tower's, whose section ``section_key`` is the encoder."""
    kind = kind or family.model_type

    def read(raw: Mapping[str, Any], path: Path) -> HubModel:
        own, where = (section(raw, section_key, path), f"{path} {section_key}") if section_key else (raw, str(path))
        dropped = own.get("vision_feature_layer") == -1  # ours: see a family's ``write``
        vision = family.read(own, where, dropped)
        if family.weights_say:
            vision = family.weights_say(vision, keys_of(path.parent))
        return HubModel(kind, vision=vision, final=not dropped)

    prefix, own = re.escape(family.prefix), ((re.escape(family.prefix), family.prefix),) if family.prefix else ()
    layout = Layout(
        within(family.rules, theirs=family.prefix),
        (
            (rf"{TOWER}({prefix})?", family.prefix),
            (family.wrapper, family.prefix),
            *own,
            (family.spelling, family.prefix),
        ),
        f"{BUFFERS}|{family.ignored}",
        family.renames,
        family.variant and (family.variant[0], within(family.variant[1], theirs=family.prefix)),
        family.zeros,
    )
    # The encoder, the dual tower that it is half of, and heads on top, whose weights are not read or an error.
    stem = re.escape(re.sub("(Vision)?Model$", "", family.class_name))
    return Folder(
        read, lambda _: layout, family.class_name, rf"{stem}((Vision)?Model(WithProjection)?|Backbone|For\w+)"
    )


def _language_model(family: TextFamily) -> Folder:
    def read(raw: Mapping[str, Any], path: Path) -> HubModel:
        return HubModel(family.model_type, decoder=family.read(raw, str(path), False))

    layout = Layout(family.rules, ((r"(?=embed_tokens\.|layers\.|norm\.)", "model."),), BUFFERS)
    stem = family.class_name.removesuffix("ForCausalLM")
    return Folder(read, lambda _: layout, family.class_name, f"{stem}(ForCausalLM|Model)")


def _read_llava(raw: Mapping[str, Any], path: Path) -> HubModel:
    """transformers' LLaVA, or an older model of LLaVA's own code, which has the same model_type."""
    return llava_original.read(raw, path) if "mm_vision_tower" in raw else llava.read(raw, path)


FOLDERS: dict[str, Folder] = {
    **{kind: _encoder(family) for kind, family in TOWERS.items()},
    **{kind: _encoder(TOWERS[f"{kind}_vision_model"], kind, "vision_config") for kind in ("siglip", "siglip2", "clip")},
    **{kind: _language_model(family) for kind, family in LANGUAGES.items()},
    **llava_original.FOLDERS,
    "llava": Folder(
        _read_llava, llava.layout, llava.CLASS, rf"Llava(ForConditionalGeneration|Model)|{llava_original.CLASSES}"
    ),
    "llava_onevision": Folder(
        llava.read_onevision, llava.layout, llava.TILED_CLASS, "LlavaOnevision(ForConditionalGeneration|Model)"
    ),
    **qwen_vl.FOLDERS,
}


def layout_of(model: HubModel) -> Layout:
    """Raises UserError for a family that has no table."""
    if model.model_type == llava_original.PROJECTOR:
        return llava_original.layout(model)
    if model.model_type not in FOLDERS:
        raise UserError(f"model_type '{model.model_type}' is not supported (supported: {', '.join(sorted(FOLDERS))})")
    return FOLDERS[model.model_type].layout(model)


def summary(model: HubModel) -> str:
    """Dimensions in words, for messages."""
    parts = [vision_words(model.vision, model.final)] if model.vision else []
    if model.decoder:
        d = model.decoder
        parts.append(
            f"decoder of {d.depth} layers, width {d.width}, MLP {d.mlp_dim}, {d.heads} heads, {d.kv_heads} "
            f"key/value heads, vocabulary {d.vocab_size}, {'tied' if d.tied else 'untied'}"
        )
    if model.projector_widths:
        parts.append(f"projector from width {model.projector_widths[0]} to {model.projector_widths[1]}")
    return " and ".join(parts)
