"""Qwen2 and Qwen2.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.families.base import TextFamily
from pivot_jax.hub.fields import Fields, checked
from pivot_jax.hub.names import Rule, linear, norm, within
from pivot_jax.models.decoder import DecoderConfig

DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "rope_theta": 10000.0,
}

# d width, f hidden width of the MLP, v vocabulary, q heads x head size, k kv-heads x head size
_BLOCK = (
    *norm("norm1", "input_layernorm", bias=False),
    *linear("attn/q", "self_attn.q_proj", "d q"),
    *linear("attn/k", "self_attn.k_proj", "d k"),
    *linear("attn/v", "self_attn.v_proj", "d k"),
    *linear("attn/out", "self_attn.o_proj", "q d", bias=False),
    *norm("norm2", "post_attention_layernorm", bias=False),
    *linear("mlp/gate", "mlp.gate_proj", "d f", bias=False),
    *linear("mlp/up", "mlp.up_proj", "d f", bias=False),
    *linear("mlp/down", "mlp.down_proj", "f d", bias=False),
)
RULES = (
    Rule("decoder/embed", "model.embed_tokens.weight", "v d -> v d"),
    *within(_BLOCK, "decoder/blocks/", "model.layers.{layer}."),
    *norm("decoder/norm", "model.norm", bias=False),
    Rule("decoder/head", "lm_head.weight", "v d -> v d", when="untied"),
)


def read(raw: Mapping[str, Any], where: str, tied: bool) -> DecoderConfig:
    fields = Fields(raw, DEFAULTS, where)
    fields.only("hidden_act", "silu")
    fields.only("use_sliding_window", False)
    head_dim = raw.get("head_dim") or 0
    return checked(
        where,
        DecoderConfig,
        vocab_size=fields["vocab_size"],
        width=fields["hidden_size"],
        depth=fields["num_hidden_layers"],
        heads=fields["num_attention_heads"],
        kv_heads=fields["num_key_value_heads"] if raw.get("num_key_value_heads") else _kv_default(raw, fields),
        mlp_dim=fields["intermediate_size"],
        head_dim=0 if head_dim * fields["num_attention_heads"] == fields["hidden_size"] else head_dim,
        rope_theta=_rope_theta(raw, fields),
        eps=fields["rms_norm_eps"],
        tied=fields["tie_word_embeddings"] or tied,
    )


def _kv_default(raw: Mapping[str, Any], fields: Fields) -> int:
    """transformers: an explicit null means as many as heads; a missing key means the class's default."""
    return fields["num_attention_heads"] if "num_key_value_heads" in raw else fields["num_key_value_heads"]


def _rope_theta(raw: Mapping[str, Any], fields: Fields) -> float:
    for key in ("rope_parameters", "rope_scaling"):
        rope = raw.get(key) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise fields.fail(key, f"asks for '{kind}' positions; only 'default' is supported")
        if "rope_theta" in rope:
            return float(rope["rope_theta"])
    return fields["rope_theta"]


def write(cfg: DecoderConfig, dtype: str, max_positions: int) -> dict[str, Any]:
    """config.json of a Qwen2ForCausalLM."""
    if not cfg.qkv_bias:
        raise UserError("Qwen2 has biases on q, k and v; a decoder with qkv_bias=False has no Hugging Face class here")
    raw = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "dtype": dtype,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": cfg.width,
        "initializer_range": 0.02,
        "intermediate_size": cfg.mlp_dim,
        "max_position_embeddings": max_positions,
        "num_attention_heads": cfg.heads,
        "num_hidden_layers": cfg.depth,
        "num_key_value_heads": cfg.kv_heads,
        "rms_norm_eps": cfg.eps,
        "rope_parameters": {"rope_theta": cfg.rope_theta, "rope_type": "default"},
        "rope_theta": cfg.rope_theta,  # for transformers before 5
        "tie_word_embeddings": cfg.tied,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": cfg.vocab_size,
    }
    return {**raw, "head_dim": cfg.head_dim} if cfg.head_dim else raw


QWEN2 = TextFamily("qwen2", "Qwen2ForCausalLM", RULES, read, write)
