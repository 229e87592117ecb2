"""Common to the language models: names of their tensors, their config.json, rotary settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.fields import Fields, checked
from pivot_jax.hub.names import Rule, linear, norm, within
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.rotary import FIELDS, RopeScaling

CONTEXT = "original_max_position_embeddings"

# What transformers' classes of these families agree on
DEFAULTS: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
}


def rules(*, bias: bool = False, qk_norm: bool = False) -> tuple[Rule, ...]:
    """Names of a decoder's tensors. d width, f hidden width of the MLP, v vocabulary, q heads x head size, k kv-heads x
    head size, c head size.
    """
    norms = [Rule(f"attn/{name}/scale", f"self_attn.{name}.weight", "c -> c") for name in ("q_norm", "k_norm")]
    block = (
        *norm("norm1", "input_layernorm", bias=False),
        *linear("attn/q", "self_attn.q_proj", "d q", bias=bias),
        *linear("attn/k", "self_attn.k_proj", "d k", bias=bias),
        *linear("attn/v", "self_attn.v_proj", "d k", bias=bias),
        *linear("attn/out", "self_attn.o_proj", "q d", bias=False),
        *(norms if qk_norm else ()),
        *norm("norm2", "post_attention_layernorm", bias=False),
        *linear("mlp/gate", "mlp.gate_proj", "d f", bias=False),
        *linear("mlp/up", "mlp.up_proj", "d f", bias=False),
        *linear("mlp/down", "mlp.down_proj", "f d", bias=False),
    )
    return (
        Rule("decoder/embed", "model.embed_tokens.weight", "v d -> v d"),
        *within(block, "decoder/blocks/", "model.layers.{layer}."),
        *norm("decoder/norm", "model.norm", bias=False),
        Rule("decoder/head", "lm_head.weight", "v d -> v d", when="untied"),
    )


def read(fields: Fields, tied: bool, *, mrope: bool = False, **own: Any) -> DecoderConfig:
    """A section of config.json as a decoder; ``own`` are a family's settings, ``mrope``: it may have M-RoPE.

    Raises:
      UserError: an activation, a window or positions that our decoder does not compute, or sizes that do not fit.
    """
    fields.only("hidden_act", "silu")
    types, depth = fields.raw.get("layer_types") or (), fields["num_hidden_layers"]
    if kinds := sorted({str(kind) for kind in types} - {"full_attention"}):
        raise fields.fail("layer_types", f"has {', '.join(map(repr, kinds))}; only 'full_attention' is supported")
    if types and len(types) != depth:
        raise fields.fail("layer_types", f"has {len(types)} entries, num_hidden_layers is {depth}")
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    head_dim = fields["head_dim"] if "head_dim" in fields.defaults else fields.raw.get("head_dim") or 0
    theta, scaling, sections = rope(fields)
    if sections and not mrope:
        raise fields.fail(
            "mrope_section", f"is {list(sections)}; a language model of its own has one position per token"
        )
    return checked(
        fields.where,
        DecoderConfig,
        vocab_size=fields["vocab_size"],
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=_kv_heads(fields),
        mlp_dim=fields["intermediate_size"],
        head_dim=0 if head_dim * heads == width else head_dim,
        rope_theta=theta,
        max_positions=fields["max_position_embeddings"],
        eps=fields["rms_norm_eps"],
        tied=fields["tie_word_embeddings"] or tied,
        padding_idx=_padding(fields),
        rope_scaling=scaling,
        mrope_section=sections,
        **own,
    )


def _kv_heads(fields: Fields) -> int:
    """transformers: an explicit null means as many as heads; a missing key means the class's default, if it has one."""
    key = "num_key_value_heads"
    has_default = key in fields.defaults and key not in fields.raw
    default = fields.defaults[key] if has_default else fields["num_attention_heads"]
    return Fields(fields.raw, {key: default}, fields.where)[key]


def _padding(fields: Fields) -> int:
    """The token that transformers' classes give to ``nn.Embedding(padding_idx=…)``; -1: none that it would take."""
    found = fields.raw.get("pad_token_id")
    return found if type(found) is int and 0 <= found < fields["vocab_size"] else -1


def rope(fields: Fields) -> tuple[float, RopeScaling, tuple[int, ...]]:
    """Base, scaling and M-RoPE sections, from ``rope_parameters`` or the older ``rope_scaling`` and ``rope_theta``.

    Raises:
      UserError: a kind that is not computed here (longrope and others), a missing or wrong value, partial rotation.
    """
    key = "rope_scaling" if fields.raw.get("rope_scaling") else "rope_parameters"  # transformers' order
    found = fields.raw.get(key) or {}
    if not isinstance(found, Mapping):
        raise fields.fail(key, f"is {found!r}; expected an object")
    kind = found.get("rope_type", found.get("type", "default"))
    sections = tuple(found.get("mrope_section") or ())
    if kind == "mrope":  # Qwen2-VL's older spelling
        kind = "default"
    if kind not in FIELDS:
        known = ", ".join(map(repr, FIELDS))
        raise fields.fail(key, f"asks for {kind!r} positions; supported: {known}")
    for where in (found, fields.raw):
        if where.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise fields.fail(
                "partial_rotary_factor", f"is {where['partial_rotary_factor']}; only whole heads rotate here"
            )
    theta = found.get("rope_theta")
    theta = fields["rope_theta"] if theta is None else _number(fields, key, "rope_theta", theta)
    return theta, _scaling(fields, key, kind, found), sections


def _scaling(fields: Fields, key: str, kind: str, found: Mapping[str, Any]) -> RopeScaling:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(RopeScaling):
        name = field.name
        value = found.get(name)
        if name not in FIELDS[kind] or (value is None and name != CONTEXT):
            continue
        if name == CONTEXT:
            values[name] = _context(fields, kind, value)
        elif name == "truncate":
            values[name] = bool(value)
        elif value or name in ("factor", "low_freq_factor", "high_freq_factor"):  # others: 0 is transformers' default
            values[name] = _number(fields, key, name, value)
    if kind == "yarn" and "factor" not in values:
        values["factor"] = fields["max_position_embeddings"] / values[CONTEXT]
    needed = {
        "linear": ("factor",),
        "dynamic": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    }
    for name in needed.get(kind, ()):
        if name not in values:
            raise fields.fail(key, f"asks for {kind!r} positions but lacks '{name}'")
    return checked(f"{fields.where} {key}", RopeScaling, rope_type=kind, **values)


def _context(fields: Fields, kind: str, value: Any) -> int:
    """The pretrained context. transformers takes a key beside the rope parameters first; dynamic has no other."""
    beside = fields.raw.get(CONTEXT)
    if kind == "dynamic":
        return fields["max_position_embeddings"]
    found = value if beside is None else beside
    if found is not None and type(found) is not int:
        raise fields.fail(CONTEXT, f"is {found!r}; expected int")
    return fields["max_position_embeddings"] if found is None else found


def _number(fields: Fields, key: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise fields.fail(key, f"has '{name}' {value!r}; expected a number")
    return float(value)


def write(cfg: DecoderConfig, model_type: str, class_name: str, dtype: str) -> dict[str, Any]:
    """config.json; rotary settings in the spelling of transformers 5 and in the older one.

    Raises:
      UserError: M-RoPE, which no class of a language model alone has.
    """
    if cfg.mrope_section:
        raise UserError(f"{class_name} has no M-RoPE (mrope_section {cfg.mrope_section}); export the whole model")
    scaling = rope_scaling(cfg)
    dynamic = cfg.rope_scaling.rope_type == "dynamic"
    return {
        "architectures": [class_name],
        "model_type": model_type,
        "dtype": dtype,
        "attention_dropout": 0.0,
        "head_dim": cfg.head_width,
        "hidden_act": "silu",
        "hidden_size": cfg.width,
        "initializer_range": 0.02,
        "intermediate_size": cfg.mlp_dim,
        "max_position_embeddings": cfg.rope_scaling.original_max_position_embeddings if dynamic else cfg.max_positions,
        "num_attention_heads": cfg.heads,
        "num_hidden_layers": cfg.depth,
        "num_key_value_heads": cfg.kv_heads,
        # Not the tokenizer's: transformers would then leave out gradients that this model has.
        "pad_token_id": cfg.padding_idx if cfg.padding_idx >= 0 else None,
        "rms_norm_eps": cfg.eps,
        "rope_parameters": {"rope_theta": cfg.rope_theta, **scaling},
        "rope_theta": cfg.rope_theta,  # this and the next for transformers before 5
        **({"rope_scaling": scaling} if cfg.rope_scaling.rope_type != "default" else {}),
        "tie_word_embeddings": cfg.tied,
        "use_cache": True,
        "vocab_size": cfg.vocab_size,
    }


def rope_scaling(cfg: DecoderConfig) -> dict[str, Any]:
    """The scaling as config.json has it: what its type reads, without what is left to transformers' default."""
    scaling = cfg.rope_scaling
    found: dict[str, Any] = {"rope_type": scaling.rope_type}
    for name in FIELDS[scaling.rope_type]:
        value = getattr(scaling, name)
        left_out = name in ("attention_factor", "mscale", "mscale_all_dim") and not value
        if not left_out and not (name == CONTEXT and scaling.rope_type == "dynamic"):
            found[name] = value
    return found
