"""Names → dimensions, and a config's ``model`` section → :class:`MLLMConfig`.

Names are Hugging Face repository names, so that a checkpoint, its tokenizer and our config say the same.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from pivot_jax.data.images import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, preset_of
from pivot_jax.errors import UserError
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import MLLMConfig, ProjectorConfig
from pivot_jax.models.siglip import TextConfig
from pivot_jax.models.vit import ViTConfig, resized

# (width, depth, heads, MLP width) by the letter of the size
_SIZES = {
    "small": (384, 12, 6, 1536),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "huge": (1280, 32, 16, 5120),
    "so400m": (1152, 27, 16, 4304),
    "giant-opt": (1536, 40, 16, 6144),
    "giant": (1536, 40, 24, 4096),  # DINOv2's, a SwiGLU
}


def _vit(size: str, image: int, patch: int, **traits: Any) -> ViTConfig:
    return ViTConfig(image, patch, *_SIZES[size], **traits)


def _siglip(names: str) -> dict[str, ViTConfig]:
    """ "siglip2-base-patch16-384", ...: the numbers are in the name."""
    found = {}
    for name in names.split():
        size, patch, image = re.fullmatch(r"siglip2?-(.*)-patch(\d+)-(\w+)", name).groups()  # type: ignore[union-attr]
        traits = {"family": "siglip2_naflex", "preset": "siglip2"} if image == "naflex" else {}
        pixels = 16 * int(patch) if image == "naflex" else int(image)  # NaFlex: of its 16 x 16 positions
        found[f"google/{name}"] = _vit(size, pixels, int(patch), **traits)
    return found


_CLIP = dict(
    family="clip", eps=1e-5, activation="quick_gelu", pool_head=False, preset="clip", mean=CLIP_MEAN, std=CLIP_STD
)
_IMAGENET = dict(activation="gelu", pool_head=False, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_MAE = dict(family="vit_mae", eps=1e-12, preset="mae", **_IMAGENET)
_SUP = dict(family="vit", eps=1e-12, activation="gelu", preset="sup")


def _dinov2(size: str, **traits: Any) -> ViTConfig:
    return _vit(size, 518, 14, family="dinov2", gated=size == "giant", preset="dinov2", **_IMAGENET, **traits)


def _qwen(width: int, depth: int, heads: int, kv: int, mlp: int, *, vocab: int = 151936, tied: bool = True):
    return DecoderConfig(vocab, width, depth, heads, kv, mlp, tied=tied)


VISION: dict[str, ViTConfig] = {
    **_siglip(
        "siglip-base-patch16-224 siglip-base-patch16-256 siglip-base-patch16-384 siglip-base-patch16-512 "
        "siglip-large-patch16-256 siglip-large-patch16-384 siglip-so400m-patch14-224 siglip-so400m-patch14-384 "
        "siglip2-base-patch16-224 siglip2-base-patch16-256 siglip2-base-patch16-384 siglip2-base-patch16-512 "
        "siglip2-base-patch32-256 siglip2-large-patch16-256 siglip2-large-patch16-384 siglip2-large-patch16-512 "
        "siglip2-so400m-patch14-224 siglip2-so400m-patch14-384 siglip2-so400m-patch16-256 siglip2-so400m-patch16-384 "
        "siglip2-so400m-patch16-512 siglip2-giant-opt-patch16-256 siglip2-giant-opt-patch16-384 "
        "siglip2-base-patch16-naflex siglip2-so400m-patch16-naflex"
    ),
    "openai/clip-vit-base-patch32": _vit("base", 224, 32, **_CLIP),
    "openai/clip-vit-base-patch16": _vit("base", 224, 16, **_CLIP),
    "openai/clip-vit-large-patch14": _vit("large", 224, 14, **_CLIP),
    "openai/clip-vit-large-patch14-336": _vit("large", 336, 14, **_CLIP),
    **{f"facebook/dinov2-{size}": _dinov2(size) for size in ("small", "base", "large", "giant")},
    **{
        f"facebook/dinov2-with-registers-{size}": _dinov2(size, registers=4)
        for size in ("small", "base", "large", "giant")
    },
    "facebook/vit-mae-base": _vit("base", 224, 16, **_MAE),
    "facebook/vit-mae-large": _vit("large", 224, 16, **_MAE),
    "facebook/vit-mae-huge": _vit("huge", 224, 14, **_MAE),
    # those for ImageNet-1k are classifiers, which have no pooler
    "google/vit-base-patch16-224": _vit("base", 224, 16, pool_head=False, **_SUP),
    "google/vit-base-patch16-384": _vit("base", 384, 16, pool_head=False, **_SUP),
    "google/vit-large-patch16-224": _vit("large", 224, 16, pool_head=False, **_SUP),
    "google/vit-large-patch16-384": _vit("large", 384, 16, pool_head=False, **_SUP),
    "google/vit-base-patch16-224-in21k": _vit("base", 224, 16, **_SUP),
    "google/vit-large-patch16-224-in21k": _vit("large", 224, 16, **_SUP),
    "google/vit-huge-patch14-224-in21k": _vit("huge", 224, 14, **_SUP),
    "nyu-visionx/moco-v3-vit-b": _vit("base", 224, 16, family="vit", preset="moco", **_IMAGENET),
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
    vision = _vision(section["vision"])
    if section["vision"]["name"] and preset not in vision.traits.presets:
        raise UserError(
            f"data.image.preset: '{preset}' is not how model.vision.name='{section['vision']['name']}' sees pictures "
            f"(allowed: {', '.join(vision.traits.presets)})"
        )
    return MLLMConfig(
        vision=dataclasses.replace(vision, preset=preset, mean=image.mean, std=image.std),
        projector=ProjectorConfig(layers=projector["layers"], reused=projector["reuse"]),
        decoder=_part("model.decoder", DecoderConfig, DECODERS, section["decoder"]),
        dtype=section["dtype"],
    )


def build_text(section: Any, vocab_size: int, output: int) -> TextConfig:
    """``config.model.text`` → text tower of stage 0, with the tokenizer's vocabulary and the encoder's width."""
    return _construct("model.text", TextConfig, {**section, "vocab_size": vocab_size, "output": output})


def _vision(section: Any) -> ViTConfig:
    """A name may end in "@PIXELS": that encoder for images of another size, its position table resized."""
    name, _, pixels = section["name"].partition("@")
    config = _part("model.vision", ViTConfig, VISION, {**section, "name": name})
    if not pixels:
        return config
    if not pixels.isdigit() or int(pixels) < config.patch_size or config.traits.patch_input:
        raise UserError(
            f"model.vision.name: '{section['name']}' ends in no image size; write {name}@PIXELS with at least the "
            f"{config.patch_size} pixels of a patch, for an encoder of square images"
        )
    return resized(config, int(pixels))


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
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
