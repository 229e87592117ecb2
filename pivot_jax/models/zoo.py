"""Names → dimensions, and a config's ``model`` section → :class:`MLLMConfig`.

Names are Hugging Face repository names, so that a checkpoint, its tokenizer and our config say the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from pivot_jax.config.check import suggest
from pivot_jax.data.images import preset_of
from pivot_jax.errors import UserError
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import MLLMConfig, ProjectorConfig
from pivot_jax.models.rotary import RopeScaling
from pivot_jax.models.vit import TextConfig, ViTConfig


def _vit(image: int, patch: int, width: int, depth: int, heads: int, mlp: int) -> ViTConfig:
    return ViTConfig(image_size=image, patch_size=patch, width=width, depth=depth, heads=heads, mlp_dim=mlp)


VISION: dict[str, ViTConfig] = {
    "google/siglip-base-patch16-384": _vit(384, 16, 768, 12, 12, 3072),
    "google/siglip-so400m-patch14-384": _vit(384, 14, 1152, 27, 16, 4304),
    "google/siglip2-base-patch16-384": _vit(384, 16, 768, 12, 12, 3072),
    "google/siglip2-large-patch16-384": _vit(384, 16, 1024, 24, 16, 4096),
    "google/siglip2-so400m-patch16-384": _vit(384, 16, 1152, 27, 16, 4304),
    "google/siglip2-giant-opt-patch16-384": _vit(384, 16, 1536, 40, 16, 6144),
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
# norms of queries and keys, head width 128
_QWEN3 = {
    "Qwen3-0.6B Qwen3-0.6B-Base": (1024, 28, 16, 8, 3072, False),
    "Qwen3-1.7B Qwen3-1.7B-Base": (2048, 28, 16, 8, 6144, False),
    "Qwen3-4B Qwen3-4B-Base": (2560, 36, 32, 8, 9728, False),
    "Qwen3-8B Qwen3-8B-Base": (4096, 36, 32, 8, 12288, True),
    "Qwen3-14B Qwen3-14B-Base": (5120, 40, 40, 8, 17408, True),
    "Qwen3-32B": (5120, 64, 64, 8, 25600, True),
}
# the last: how far 3.1 and 3.2 stretch the context of 3
_LLAMA = {
    "Meta-Llama-3-8B Meta-Llama-3-8B-Instruct": (4096, 32, 32, 8, 14336, True, 0),
    "Meta-Llama-3-70B Meta-Llama-3-70B-Instruct": (8192, 80, 64, 8, 28672, True, 0),
    "Llama-3.1-8B Llama-3.1-8B-Instruct": (4096, 32, 32, 8, 14336, True, 8),
    "Llama-3.1-70B Llama-3.1-70B-Instruct": (8192, 80, 64, 8, 28672, True, 8),
    "Llama-3.2-1B Llama-3.2-1B-Instruct": (2048, 16, 32, 8, 8192, False, 32),
    "Llama-3.2-3B Llama-3.2-3B-Instruct": (3072, 28, 24, 8, 8192, False, 32),
}


def _qwen2(name: str, width: int, depth: int, heads: int, kv: int, mlp: int, untied: bool) -> DecoderConfig:
    vocabulary = 152064 if untied else 151936
    return DecoderConfig(vocabulary, width, depth, heads, kv, mlp, eps=_QWEN2_EPS.get(name, 1e-6), tied=not untied)


def _qwen3(name: str, width: int, depth: int, heads: int, kv: int, mlp: int, untied: bool) -> DecoderConfig:
    head_dim = 0 if 128 * heads == width else 128
    return DecoderConfig(
        151936, width, depth, heads, kv, mlp, head_dim, tied=not untied, qkv_bias=False, qk_norm=True
    )  # fmt: skip


def _llama(
    name: str, width: int, depth: int, heads: int, kv: int, mlp: int, untied: bool, factor: int
) -> DecoderConfig:
    scaling = RopeScaling("llama3", float(factor), 8192) if factor else RopeScaling()
    return DecoderConfig(
        128256, width, depth, heads, kv, mlp,
        rope_theta=5e5, eps=1e-5, tied=not untied, qkv_bias=False, rope_scaling=scaling,
    )  # fmt: skip


DECODERS: dict[str, DecoderConfig] = {
    f"{owner}/{name}": make(name, *row)
    for owner, make, rows in (("Qwen", _qwen2, _QWEN2), ("Qwen", _qwen3, _QWEN3), ("meta-llama", _llama, _LLAMA))
    for names, row in rows.items()
    for name in names.split()
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
        raise UserError(f"{key}.name: '{name}' is unknown{near(name, known)} (or '' and dimensions)")
    return dataclasses.replace(known[name], remat=values["remat"], scan_layers=values["scan_layers"])


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
