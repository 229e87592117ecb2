"""The encoders and language models that folders are made of, by the ``model_type`` of their section."""

from __future__ import annotations

from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.families import clip, convnext, dinov2, qwen_vl, siglip, vit
from pivot_jax.hub.families.base import TextFamily, VisionFamily
from pivot_jax.hub.families.llama import LLAMA
from pivot_jax.hub.families.qwen2 import QWEN2
from pivot_jax.hub.families.qwen3 import QWEN3
from pivot_jax.models.decoder import DecoderConfig

TOWERS: dict[str, VisionFamily] = {
    family.model_type: family
    for family in (
        siglip.SIGLIP, siglip.SIGLIP2, clip.CLIP, dinov2.DINOV2, dinov2.REGISTERS, vit.VIT, vit.MAE, convnext.CONVNEXT,
    )
}  # fmt: skip
LANGUAGES: dict[str, TextFamily] = {family.model_type: family for family in (QWEN2, QWEN3, LLAMA)}
_BY_FAMILY = {  # ``family`` of an encoder's config
    "siglip": siglip.SIGLIP,
    "siglip2_naflex": siglip.SIGLIP2,
    "clip": clip.CLIP,
    "dinov2": dinov2.DINOV2,
    "vit": vit.VIT,
    "vit_mae": vit.MAE,
    "convnext": convnext.CONVNEXT,
    **qwen_vl.TOWERS,
}


def vision_of(cfg: Any) -> VisionFamily:
    """The family of an encoder, by its config."""
    return dinov2.REGISTERS if getattr(cfg, "registers", 0) else _BY_FAMILY[cfg.family]


def vision_sizes(cfg: Any, final: bool) -> dict[str, int]:
    """Sizes of the letters and flags in the encoder's rules; ``final``: whether the last block is there."""
    return vision_of(cfg).sizes(cfg, final)


def vision_words(cfg: Any, final: bool) -> str:
    """The encoder's dimensions, for messages."""
    return vision_of(cfg).words(cfg, final)


def text_of(cfg: DecoderConfig) -> TextFamily:
    """The family whose checkpoints hold this decoder.

    Raises:
      UserError: biases and norms of queries and keys together, which none of them has.
    """
    if cfg.qkv_bias and cfg.qk_norm:
        raise UserError(
            "model.decoder.qkv_bias and model.decoder.qk_norm are both true; no family of Hugging Face has both "
            "(Qwen2 has the biases, Qwen3 the norms)"
        )
    return QWEN2 if cfg.qkv_bias else QWEN3 if cfg.qk_norm else LLAMA
