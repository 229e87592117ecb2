"""Families of Hugging Face checkpoints: one file each; ``FOLDERS`` has what a folder may hold, by its model_type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.families import llava
from pivot_jax.hub.families.base import BUFFERS, TOWER, Folder, HubModel, TextFamily, VisionFamily
from pivot_jax.hub.families.parts import LANGUAGES, TOWERS, text_of, vision_of
from pivot_jax.hub.fields import section
from pivot_jax.hub.names import Layout, within

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
]


def _encoder(family: VisionFamily, kind: str = "", section_key: str = "", ignored: str = "") -> Folder:
    """An encoder's folder; or a dual tower's, whose section ``section_key`` is the encoder."""
    kind = kind or family.model_type

    def read(raw: Mapping[str, Any], path: Path) -> HubModel:
        own, where = (section(raw, section_key, path), f"{path} {section_key}") if section_key else (raw, str(path))
        dropped = own.get("vision_feature_layer") == -1  # ours: see a family's ``write``
        return HubModel(kind, vision=family.read(own, where, dropped), final=not dropped)

    prefix, own = re.escape(family.prefix), ((re.escape(family.prefix), family.prefix),) if family.prefix else ()
    spellings = ((rf"{TOWER}({prefix})?", family.prefix), *own, (family.spelling, family.prefix))
    passed_over = "|".join(pattern for pattern in (BUFFERS, f"{prefix}({family.ignored})", ignored) if pattern)
    layout = Layout(within(family.rules, theirs=family.prefix), spellings, passed_over)
    return Folder(read, lambda _: layout)


def _language_model(family: TextFamily) -> Folder:
    def read(raw: Mapping[str, Any], path: Path) -> HubModel:
        return HubModel(family.model_type, decoder=family.read(raw, str(path), False))

    layout = Layout(family.rules, ((r"(?=embed_tokens\.|layers\.|norm\.)", "model."),), BUFFERS)
    return Folder(read, lambda _: layout)


FOLDERS: dict[str, Folder] = {
    **{kind: _encoder(family) for kind, family in TOWERS.items()},
    "siglip": _encoder(
        TOWERS["siglip_vision_model"], "siglip", "vision_config", r"text_model\..*|logit_scale|logit_bias"
    ),
    **{kind: _language_model(family) for kind, family in LANGUAGES.items()},
    "llava": llava.LLAVA,
}


def layout_of(model: HubModel) -> Layout:
    """Raises UserError for a family that has no table."""
    if model.model_type not in FOLDERS:
        raise UserError(f"model_type '{model.model_type}' is not supported (supported: {', '.join(sorted(FOLDERS))})")
    return FOLDERS[model.model_type].layout(model)


def summary(model: HubModel) -> str:
    """Dimensions in words, for messages."""
    parts = [vision_of(model.vision).words(model.vision, model.final)] if model.vision else []
    if model.decoder:
        d = model.decoder
        parts.append(
            f"decoder of {d.depth} layers, width {d.width}, MLP {d.mlp_dim}, {d.heads} heads, {d.kv_heads} "
            f"key/value heads, vocabulary {d.vocab_size}, {'tied' if d.tied else 'untied'}"
        )
    return " and ".join(parts)
