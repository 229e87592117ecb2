"""Names → dimensions, and a config's ``model`` section → :class:`MLLMConfig`.

Names are Hugging Face repository names: a checkpoint, its tokenizer and our config have the same one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from pivot_jax.data.processing.images import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, preset_of
from pivot_jax.errors import UserError, suggest
from pivot_jax.models import qwen_vision
from pivot_jax.models.convnext import ConvNeXtConfig
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import MLLMConfig
from pivot_jax.models.projector import ProjectorConfig
from pivot_jax.models.qwen_vision import QwenVisionConfig
from pivot_jax.models.rotary import RopeScaling
from pivot_jax.models.siglip import TextConfig
from pivot_jax.models.vision import VisionConfig
from pivot_jax.models.vit import ViTConfig

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
        traits = {"family": "siglip2_naflex", "preset": "siglip2_naflex"} if image == "naflex" else {}
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


_QWEN2_VL = QwenVisionConfig(
    14, 1280, 32, 16, 5120, family="qwen2_vl", activation="quick_gelu", window=0, full_blocks=()
)

VISION: dict[str, Any] = {  # VisionConfig
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
    "Qwen/Qwen2-VL-2B-Instruct": _QWEN2_VL,
    "Qwen/Qwen2-VL-7B-Instruct": _QWEN2_VL,
    "Qwen/Qwen2.5-VL-3B-Instruct": QwenVisionConfig(14, 1280, 32, 16, 3420),
    "Qwen/Qwen2.5-VL-7B-Instruct": QwenVisionConfig(14, 1280, 32, 16, 3420),
    "Qwen/Qwen2.5-VL-32B-Instruct": QwenVisionConfig(14, 1280, 32, 16, 3456),
    "Qwen/Qwen2.5-VL-72B-Instruct": QwenVisionConfig(14, 1280, 32, 16, 3456),
    "nyu-visionx/moco-v3-vit-b": _vit("base", 224, 16, family="vit", preset="moco", **_IMAGENET),
}


def _convnext(widths: tuple[int, ...], depths: tuple[int, ...], image: int, **traits: Any) -> ConvNeXtConfig:
    return ConvNeXtConfig(image, widths, depths, **traits)


CONVNEXT: dict[str, ConvNeXtConfig] = {
    "facebook/convnext-tiny-224": _convnext((96, 192, 384, 768), (3, 3, 9, 3), 224),
    "facebook/convnext-small-224": _convnext((96, 192, 384, 768), (3, 3, 27, 3), 224),
    "facebook/convnext-base-224": _convnext((128, 256, 512, 1024), (3, 3, 27, 3), 224),
    "facebook/convnext-large-224": _convnext((192, 384, 768, 1536), (3, 3, 27, 3), 224),
    "facebook/convnext-xlarge-224-22k": _convnext((256, 512, 1024, 2048), (3, 3, 27, 3), 224),
    # the paper's; published for open_clip, so its weights need a conversion to ConvNextModel first
    "laion/CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup": _convnext(
        (384, 768, 1536, 3072), (3, 4, 30, 3), 256, mean=CLIP_MEAN, std=CLIP_STD
    ),
}

# name -> (width, depth, heads, key/value heads, MLP width, head of its own); biases on q, k and v
_QWEN2 = {
    "Qwen2-0.5B Qwen2-0.5B-Instruct Qwen2.5-0.5B Qwen2.5-0.5B-Instruct": (896, 24, 14, 2, 4864, False),
    "Qwen2-1.5B Qwen2-1.5B-Instruct Qwen2.5-1.5B Qwen2.5-1.5B-Instruct": (1536, 28, 12, 2, 8960, False),
    "Qwen2.5-3B Qwen2.5-3B-Instruct": (2048, 36, 16, 2, 11008, False),
    "Qwen2-7B Qwen2-7B-Instruct Qwen2.5-7B Qwen2.5-7B-Instruct": (3584, 28, 28, 4, 18944, True),
    "Qwen2.5-14B Qwen2.5-14B-Instruct": (5120, 48, 40, 8, 13824, True),
    "Qwen2.5-32B Qwen2.5-32B-Instruct": (5120, 64, 40, 8, 27648, True),
    "Qwen2-72B Qwen2-72B-Instruct Qwen2.5-72B Qwen2.5-72B-Instruct": (8192, 80, 64, 8, 29568, True),
}
_QWEN2_EPS = {name: 1e-5 for name in ("Qwen2.5-14B", "Qwen2.5-32B", "Qwen2-72B", "Qwen2.5-72B")}  # not the Instructs'
_QWEN_VL = {  # M-RoPE
    "Qwen2-VL-2B-Instruct": (1536, 28, 12, 2, 8960, False),
    "Qwen2.5-VL-3B-Instruct": (2048, 36, 16, 2, 11008, False),
    "Qwen2-VL-7B-Instruct Qwen2.5-VL-7B-Instruct": (3584, 28, 28, 4, 18944, True),
    "Qwen2.5-VL-32B-Instruct": (5120, 64, 40, 8, 27648, True),
    "Qwen2.5-VL-72B-Instruct": (8192, 80, 64, 8, 29568, True),
}
# norms of queries and keys, head width 128
_QWEN3 = {
    "Qwen3-0.6B Qwen3-0.6B-Base": (1024, 28, 16, 8, 3072, False),
    "Qwen3-1.7B Qwen3-1.7B-Base": (2048, 28, 16, 8, 6144, False),
    "Qwen3-4B Qwen3-4B-Base": (2560, 36, 32, 8, 9728, False),
    "Qwen3-8B Qwen3-8B-Base": (4096, 36, 32, 8, 12288, True),
    "Qwen3-14B Qwen3-14B-Base": (5120, 40, 40, 8, 17408, True),
    "Qwen3-32B": (5120, 64, 64, 8, 25600, True),
}
# the last: the factor by which 3.1 and 3.2 extend the context of 3
_LLAMA = {
    "Meta-Llama-3-8B Meta-Llama-3-8B-Instruct": (4096, 32, 32, 8, 14336, True, 0),
    "Meta-Llama-3-70B Meta-Llama-3-70B-Instruct": (8192, 80, 64, 8, 28672, True, 0),
    "Llama-3.1-8B Llama-3.1-8B-Instruct": (4096, 32, 32, 8, 14336, True, 8),
    "Llama-3.1-70B Llama-3.1-70B-Instruct": (8192, 80, 64, 8, 28672, True, 8),
    "Llama-3.2-1B Llama-3.2-1B-Instruct": (2048, 16, 32, 8, 8192, False, 32),
    "Llama-3.2-3B Llama-3.2-3B-Instruct": (3072, 28, 24, 8, 8192, False, 32),
}
# Llama's blocks, tied; the base of the rotary wavelengths is the last
_SMOLLM2 = {"SmolLM2-135M SmolLM2-135M-Instruct": (576, 30, 9, 3, 1536, 1e5)}


def _qwen2(name: str, width: int, depth: int, heads: int, kv: int, mlp: int, untied: bool) -> DecoderConfig:
    vocabulary = 152064 if untied else 151936
    return DecoderConfig(vocabulary, width, depth, heads, kv, mlp, eps=_QWEN2_EPS.get(name, 1e-6), tied=not untied)


def _qwen_vl(name: str, *row: Any) -> DecoderConfig:
    longest = 128000 if name.startswith("Qwen2.5") else 32768
    return dataclasses.replace(_qwen2(name, *row), mrope_section=(16, 24, 24), max_positions=longest)


def _qwen3(name: str, width: int, depth: int, heads: int, kv: int, mlp: int, untied: bool) -> DecoderConfig:
    head_dim = 0 if 128 * heads == width else 128
    return DecoderConfig(
        151936, width, depth, heads, kv, mlp, head_dim, 40960, tied=not untied, qkv_bias=False, qk_norm=True
    )  # fmt: skip


def _llama(
    name: str, width: int, depth: int, heads: int, kv: int, mlp: int, untied: bool, factor: int
) -> DecoderConfig:
    scaling = RopeScaling("llama3", float(factor), 8192) if factor else RopeScaling()
    return DecoderConfig(
        128256, width, depth, heads, kv, mlp, max_positions=131072 if factor else 8192,
        rope_theta=5e5, eps=1e-5, tied=not untied, qkv_bias=False, rope_scaling=scaling,
    )  # fmt: skip


def _smollm2(name: str, width: int, depth: int, heads: int, kv: int, mlp: int, theta: float) -> DecoderConfig:
    return DecoderConfig(
        49152, width, depth, heads, kv, mlp, max_positions=8192, rope_theta=theta, eps=1e-5, tied=True, qkv_bias=False
    )


DECODERS: dict[str, DecoderConfig] = {
    f"{owner}/{name}": make(name, *row)
    for owner, make, rows in (
        ("Qwen", _qwen2, _QWEN2),
        ("Qwen", _qwen_vl, _QWEN_VL),
        ("Qwen", _qwen3, _QWEN3),
        ("meta-llama", _llama, _LLAMA),
        ("HuggingFaceTB", _smollm2, _SMOLLM2),
    )
    for names, row in rows.items()
    for name in names.split()
}


def build(section: Any, images: Any) -> MLLMConfig:
    """``config.model`` (a mapping with ``vision``, ``projector``, ``decoder``, ``dtype``) → model config.

    ``images`` is ``config.data.image``: the encoder takes mean and std of its preset, and the number of patches from
    ``max_patches``. A section with a ``name`` gets that model's dimensions; keys of :data:`OWN` are its own.

    Raises:
      UserError: unknown name, or dimensions or a preset that do not fit; the message names the key.
    """
    projector, own = section["projector"], section["vision"]
    vision = _with_images(_vision(own), own["name"], images)
    if vision.traits.merges and projector["reuse"]:
        raise UserError(
            f"model.projector.reuse: {projector['reuse']}, but the projector of a {vision.family} encoder is its "
            "merger; set it to 0"
        )
    second = _second(section["second"])
    if second and (vision.traits.patch_input or second.traits.patch_input):
        family = (vision if vision.traits.patch_input else second).family
        raise UserError(
            f"model.second.kind: two encoders read the same square image, and a '{family}' reads "
            "variable-resolution images; take another family, or model.second.kind=none"
        )
    return MLLMConfig(
        vision=vision,
        projector=ProjectorConfig(projector["layers"], projector["reuse"], projector["newline"]),
        decoder=_part("model.decoder", DecoderConfig, DECODERS, section["decoder"]),
        dtype=section["dtype"],
        second=second,
    )


def build_text(section: Any, vocab_size: int, output: int) -> TextConfig:
    """``config.model.text`` → text tower of stage 0, with the tokenizer's vocabulary and the encoder's width."""
    return _construct("model.text", TextConfig, {**section, "vocab_size": vocab_size, "output": output})


def _with_images(vision: VisionConfig, name: str, images: Any) -> VisionConfig:
    """The encoder for images that are prepared as ``config.data.image`` says."""
    preset = preset_of(images["preset"])
    if (name or vision.traits.patch_input or preset.sizing) and images["preset"] not in vision.traits.presets:
        what = f"name='{name}'" if name else f"family='{vision.family}'"
        raise UserError(
            f"data.image.preset: '{images['preset']}' is not how model.vision.{what} prepares images "
            f"(allowed: {', '.join(vision.traits.presets)})"
        )
    return vision.with_images(images, preset)


def _second(section: Any) -> VisionConfig | None:
    """Its images are normalised as its family's first preset says; a name has its own."""
    if section["kind"] == "none":
        return None
    if section["kind"] == "vit":
        config: Any = _vision(section, "model.second")
    else:
        config = _part("model.second", ConvNeXtConfig, CONVNEXT, {**section, "family": "convnext"})
    if section["name"]:
        return config
    image = preset_of(config.traits.presets[0])
    return dataclasses.replace(config, preset=config.traits.presets[0], mean=image.mean, std=image.std)


def _vision(section: Any, key: str = "model.vision") -> Any:
    """A name may end in "@PIXELS": that encoder for images of another size, its position table resized."""
    name, at, pixels = section["name"].partition("@")
    kind: Any = QwenVisionConfig if section["family"] in qwen_vision.FAMILIES else ViTConfig
    config = _part(key, kind, VISION, {**section, "name": name})
    if not at:
        return config
    if not pixels.isdigit() or int(pixels) < config.patch_size or config.traits.patch_input:
        raise UserError(
            f"{key}.name: '{section['name']}' ends in no image size; write {name}@PIXELS with at least the "
            f"{config.patch_size} pixels of a patch, for an encoder of square images"
        )
    return config.resized(int(pixels))


OWN = ("remat", "scan_layers", "padding_idx")  # keys of a section that a name does not set


def _part(key: str, kind: Any, known: dict[str, Any], section: Any) -> Any:
    values = dict(section)
    name = values.pop("name", "")
    if not name:
        return _construct(key, kind, values)
    if name not in known:
        raise UserError(f"{key}.name: '{name}' is unknown{near(name, known)} (or '' and dimensions)")
    return dataclasses.replace(known[name], **{key: values[key] for key in OWN if key in values})


def dimensions(name: str) -> ViTConfig | DecoderConfig:
    """Config of an encoder or a language model by its name on the hub, without a network.

    Raises:
      UserError: a name that is not known; it names the nearest.
    """
    known: dict[str, Any] = {**VISION, **CONVNEXT, **DECODERS}
    if name not in known:
        raise UserError(f"'{name}' is unknown{near(name, known)}")
    return known[name]


def near(name: str, known: Iterable[str]) -> str:
    """The known name most like ``name`` and those of the same owner, for messages."""
    known = list(known)
    owned = [other for other in known if other.split("/")[0] == name.split("/")[0]]
    return f"{suggest(name, known)}; there are: {', '.join(owned or known)}"


def _construct(key: str, kind: Any, values: dict[str, Any]) -> Any:
    fields = {field.name for field in dataclasses.fields(kind)}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in fields}
    if "rope_scaling" in values:
        values["rope_scaling"] = _construct(f"{key}.rope_scaling", RopeScaling, dict(values["rope_scaling"]))
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
