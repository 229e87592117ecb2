"""config.json of a Hugging Face folder → our model dataclasses.

Values that transformers leaves out of config.json because they are its defaults are in the ``DEFAULTS`` table of each
family (checked in the tests against transformers' classes). Older spellings are read too: ``rope_theta`` for
``rope_parameters``, ``image_token_id`` for ``image_token_index``. What a family could do but our models do not
(sliding windows, other activations) raises an error that names it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivot_jax.config import paths
from pivot_jax.errors import UserError
from pivot_jax.hub import processors
from pivot_jax.hub.families import FOLDERS, HubModel, llava_original, vision_of, vision_sizes
from pivot_jax.hub.fields import read_json
from pivot_jax.hub.snapshot import folder_of


def read(folder: str | Path) -> HubModel:
    """Reads config.json, and the image preprocessing from preprocessor_config.json if there is one.

    ``folder`` may be the name of a model on the hub (:func:`hub.snapshot.folder_of`). A safetensors file, or a folder
    of some, that holds nothing but a projector of LLaVA's own code needs no config.

    Raises:
      UserError: no folder, no or broken config.json, an unsupported family, class or feature.
    """
    folder = folder_of(folder)
    projector = llava_original.projector_alone(folder)
    if projector is not None:
        return projector
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; fetch one: hf download ORG/NAME --local-dir {folder}")
    path = folder / "config.json"
    raw = read_json(path)
    kind = raw.get("model_type")
    if kind not in FOLDERS:
        reason = f"model_type {kind!r} is not supported" if kind else "there is no model_type"
        known = ", ".join(sorted(FOLDERS))
        raise UserError(f"{path}: {reason} (supported: {known}){paths.instead(folder, 'hf')}")
    for inside in (raw, raw.get("text_config"), raw.get("vision_config")):
        if isinstance(inside, dict) and inside.get("quantization_config"):
            raise UserError(
                f"{path}: 'quantization_config' is not supported; save the model again in bfloat16 or float32"
            )
    _check_classes(raw, kind, path)
    model = FOLDERS[kind].read(raw, path)
    if model.vision is None:
        return model
    return dataclasses.replace(model, vision=processors.read(model.vision, folder))


def _check_classes(raw: Mapping[str, Any], kind: str, path: Path) -> None:
    """Raises UserError where ``architectures`` and ``model_type`` contradict each other: one of them is wrong."""
    found = raw.get("architectures") or []
    found = found if isinstance(found, list) else [found]
    if found and not any(re.fullmatch(FOLDERS[kind].classes, str(name)) for name in found):
        raise UserError(
            f"{path}: 'architectures' names {', '.join(map(str, found))}, but model_type '{kind}' is read as a "
            f"{FOLDERS[kind].class_name}; correct whichever is wrong (supported: {', '.join(sorted(FOLDERS))})"
        )


def sizes(model: HubModel) -> dict[str, dict[str, int]]:
    """Sizes of the letters and flags in the families' tables, per part of the model."""
    found: dict[str, dict[str, int]] = {}
    if model.vision:
        found["vision"] = vision_sizes(model.vision, model.final)
    if model.decoder:
        d = model.decoder
        found["decoder"] = {
            **{"d": d.width, "v": d.vocab_size, "f": d.mlp_dim},
            **{"q": d.heads * d.head_width, "k": d.kv_heads * d.head_width, "c": d.head_width},
            **{"layers": d.depth, "untied": int(not d.tied)},
        }
    widths = model.projector_widths
    if widths is None and model.vision and model.decoder:
        widths = model.vision.width, model.decoder.width
    if model.projector and widths:
        newline = int(model.projector is not None and model.projector.newline)
        found["projector"] = {"i": widths[0], "d": widths[1], "e": widths[1], "newline": newline}
        merger_sizes = vision_of(model.vision).merger_sizes if model.vision else None
        if merger_sizes:
            found["projector"] = merger_sizes(model.vision, widths[1])
    return found
