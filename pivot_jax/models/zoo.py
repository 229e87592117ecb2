"""Names → dimensions, and a config's ``model`` section → :class:`MLLMConfig`.

Names are Hugging Face repository names, so that a checkpoint, its tokenizer and our config say the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pivot_jax.data.images import preset_of
from pivot_jax.errors import UserError
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import MLLMConfig, ProjectorConfig
from pivot_jax.models.rotary import RopeScaling
from pivot_jax.models.vit import TextConfig, ViTConfig


def _vit(image: int, patch: int, width: int, depth: int, heads: int, mlp: int) -> ViTConfig:
    return ViTConfig(image_size=image, patch_size=patch, width=width, depth=depth, heads=heads, mlp_dim=mlp)


def _qwen(width: int, depth: int, heads: int, kv: int, mlp: int, *, vocab: int = 151936, tied: bool = True):
    return DecoderConfig(vocab, width, depth, heads, kv, mlp, tied=tied)


VISION: dict[str, ViTConfig] = {
    "google/siglip-base-patch16-384": _vit(384, 16, 768, 12, 12, 3072),
    "google/siglip-so400m-patch14-384": _vit(384, 14, 1152, 27, 16, 4304),
    "google/siglip2-base-patch16-384": _vit(384, 16, 768, 12, 12, 3072),
    "google/siglip2-large-patch16-384": _vit(384, 16, 1024, 24, 16, 4096),
    "google/siglip2-so400m-patch16-384": _vit(384, 16, 1152, 27, 16, 4304),
    "google/siglip2-giant-opt-patch16-384": _vit(384, 16, 1536, 40, 16, 6144),
}

DECODERS: dict[str, DecoderConfig] = {
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen(896, 24, 14, 2, 4864),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen(1536, 28, 12, 2, 8960),
    "Qwen/Qwen2.5-3B-Instruct": _qwen(2048, 36, 16, 2, 11008),
    "Qwen/Qwen2.5-7B-Instruct": _qwen(3584, 28, 28, 4, 18944, vocab=152064, tied=False),
}


def build(section: Any, preset: str) -> MLLMConfig:
    """``config.model`` (a mapping with ``vision``, ``projector``, ``decoder``, ``dtype``) → model config.

    ``preset`` (``config.data.image.preset``) gives the encoder's mean and std. A section with a ``name`` takes that
    model's dimensions; its ``remat`` and ``scan_layers`` stay its own.

    Raises:
      UserError: unknown name, or dimensions that do not fit; the message names the key.
    """
    projector, image = section["projector"], preset_of(preset)
    vision = _part("model.vision", ViTConfig, VISION, section["vision"])
    return MLLMConfig(
        vision=dataclasses.replace(vision, mean=image.mean, std=image.std),
        projector=ProjectorConfig(layers=projector["layers"], reused=projector["reuse"]),
        decoder=_part("model.decoder", DecoderConfig, DECODERS, section["decoder"]),
        dtype=section["dtype"],
    )


def build_text(section: Any, vocab_size: int, output: int) -> TextConfig:
    """``config.model.text`` → text tower of stage 0, with the tokenizer's vocabulary and the encoder's width."""
    return _construct("model.text", TextConfig, {**section, "vocab_size": vocab_size, "output": output})


def _part(key: str, kind: Any, known: dict[str, Any], section: Any) -> Any:
    values = dict(section)
    name = values.pop("name", "")
    if not name:
        return _construct(key, kind, values)
    if name not in known:
        raise UserError(f"{key}.name: '{name}' is unknown; there are: {', '.join(known)} (or '' and dimensions)")
    return dataclasses.replace(known[name], remat=values["remat"], scan_layers=values["scan_layers"])


def _construct(key: str, kind: Any, values: dict[str, Any]) -> Any:
    fields = {field.name for field in dataclasses.fields(kind)}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in fields}
    if "rope_scaling" in values:
        values["rope_scaling"] = _construct(f"{key}.rope_scaling", RopeScaling, dict(values["rope_scaling"]))
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
