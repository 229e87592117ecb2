"""Qwen3, the dense models: norms of queries and keys, no biases, a head size of its own."""

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
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "attention_bias": False,
}
RULES = language.rules(qk_norm=True)


def read(raw: Mapping[str, Any], where: str, tied: bool) -> DecoderConfig:
    fields = Fields(raw, DEFAULTS, where)
    fields.only("use_sliding_window", False)
    fields.only("attention_bias", False)
    return language.read(fields, tied, qkv_bias=False, qk_norm=True)


def write(cfg: DecoderConfig, dtype: str) -> dict[str, Any]:
    """config.json of a Qwen3ForCausalLM."""
    raw = language.write(cfg, "qwen3", "Qwen3ForCausalLM", dtype)
    return {**raw, "attention_bias": False, "use_sliding_window": False}


QWEN3 = TextFamily("qwen3", "Qwen3ForCausalLM", RULES, read, write)
