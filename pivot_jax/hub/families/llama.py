"""Llama 2 and 3: no biases and no norms of queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pivot_jax.hub.families import language
from pivot_jax.hub.families.base import TextFamily
from pivot_jax.hub.fields import Fields
from pivot_jax.models.decoder import DecoderConfig

# num_key_value_heads has no default here: as many as heads
DEFAULTS: dict[str, Any] = {
    **language.DEFAULTS,
    "vocab_size": 32000,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "attention_bias": False,
    "mlp_bias": False,
}
RULES = language.rules()


def read(raw: Mapping[str, Any], where: str, tied: bool) -> DecoderConfig:
    fields = Fields(raw, DEFAULTS, where)
    fields.only("attention_bias", False)
    fields.only("mlp_bias", False)
    return language.read(fields, tied, qkv_bias=False)


def write(cfg: DecoderConfig, dtype: str) -> dict[str, Any]:
    """config.json of a LlamaForCausalLM."""
    raw = language.write(cfg, "llama", "LlamaForCausalLM", dtype)
    return {**raw, "attention_bias": False, "mlp_bias": False}


LLAMA = TextFamily("llama", "LlamaForCausalLM", RULES, read, write)
