"""The encoders and language models that folders are made of, by the ``model_type`` of their section."""

from __future__ import annotations

from pivot_jax.hub.families import clip, dinov2, siglip, vit
from pivot_jax.hub.families.base import TextFamily, VisionFamily
from pivot_jax.hub.families.qwen2 import QWEN2
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.vit import ViTConfig

TOWERS: dict[str, VisionFamily] = {
    family.model_type: family
    for family in (siglip.SIGLIP, siglip.SIGLIP2, clip.CLIP, dinov2.DINOV2, dinov2.REGISTERS, vit.VIT, vit.MAE)
}
LANGUAGES: dict[str, TextFamily] = {family.model_type: family for family in (QWEN2,)}
_BY_FAMILY = {  # ViTConfig.family
    "siglip": siglip.SIGLIP,
    "siglip2_naflex": siglip.SIGLIP2,
    "clip": clip.CLIP,
    "dinov2": dinov2.DINOV2,
    "vit": vit.VIT,
    "vit_mae": vit.MAE,
}


def vision_of(cfg: ViTConfig) -> VisionFamily:
    """The family whose checkpoints hold this encoder."""
    return dinov2.REGISTERS if cfg.registers else _BY_FAMILY[cfg.family]


def text_of(cfg: DecoderConfig) -> TextFamily:
    """The family whose checkpoints hold this decoder."""
    return QWEN2
