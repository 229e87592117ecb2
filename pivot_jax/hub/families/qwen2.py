"""Qwen2 and Qwen2.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pivot_jax.hub.families import language
from pivot_jax.hub.families.base import TextFamily
from pivot_jax.hub.fields import Fields
from pivot_jax.models.decoder import DecoderConfig

DEFAULTS: dict[str, Any] = {
    **language.DEFAULTS,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
}
RULES = language.rules(bias=True)


def read(raw: Mapping[str, Any], where: str, tied: bool) -> DecoderConfig:
    fields = Fields(raw, DEFAULTS, where)
    fields.only("use_sliding_window", False)
    return language.read(fields, tied, qkv_bias=True)


def write(cfg: DecoderConfig, dtype: str) -> dict[str, Any]:
    """config.json of a Qwen2ForCausalLM."""
    raw = language.write(cfg, "qwen2", "Qwen2ForCausalLM", dtype)
    return {**raw, "use_sliding_window": False}


QWEN2 = TextFamily("qwen2", "Qwen2ForCausalLM", RULES, read, write)
