"""The files beside the weights in an exported folder: config.json, processor and generation settings, the card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivot_jax.hub.families import llava
from pivot_jax.models.vit import ViTConfig


def special_tokens(tokenizer: Any) -> dict[str, Any]:
    """bos, eos and pad ids of a tokenizer (None without one)."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}


def write_image_processor(folder: Path, settings: Mapping[str, Any]) -> None:
    """preprocessor_config.json; ``settings`` are those of a family's ``processor``."""
    write_json(folder / "preprocessor_config.json", settings)


def write_generation(folder: Path, tokenizer: Any) -> None:
    """generation_config.json: greedy, with the tokenizer's stop token."""
    ids = {key: value for key, value in special_tokens(tokenizer).items() if value is not None}
    write_json(folder / "generation_config.json", {"do_sample": False, **ids})


def write_llava_processor(folder: Path, cfg: ViTConfig, image_token: str, template: str, tiled: bool) -> None:
    """processor_config.json of a LlavaProcessor (``tiled``: LlavaOnevisionProcessor), and its chat template."""
    settings: dict[str, Any] = {
        "image_token": image_token,
        "vision_feature_select_strategy": llava.strategy(cfg),
    }
    if tiled:
        settings |= {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": cfg.patches}
        settings |= {"vision_aspect_ratio": llava.ASPECT}
    else:
        settings |= {"processor_class": "LlavaProcessor", "num_additional_image_tokens": cfg.prefix}
        settings |= {"patch_size": cfg.patch_size}
    write_json(folder / "processor_config.json", settings)
    write_chat_template(folder, template)


def write_chat_template(folder: Path, template: str) -> None:
    """chat_template.jinja, instead of the tokenizer's own."""
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def write_card(folder: Path, title: str, pipeline: str, lines: list[str], library: str = "transformers") -> None:
    """README.md, the model card."""
    head = f"---\nlibrary_name: {library}\npipeline_tag: {pipeline}\ntags: [pivot-jax]\n---\n"
    (folder / "README.md").write_text("\n".join([head, f"# {title}", "", *lines, ""]), encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
