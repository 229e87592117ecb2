"""Qwen2-VL and Qwen2.5-VL: a vision tower with its merger, and a Qwen2 decoder with M-RoPE.

Files on the hub have ``visual.*``, ``model.layers.*`` and ``lm_head``; transformers 5 has ``model.visual.*`` and
``model.language_model.*`` in memory and writes the hub's names. config.json has the language model's keys at the top
(hub) or in ``text_config`` (transformers 5).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub.families import language, qwen2
from pivot_jax.hub.families.base import BUFFERS, Folder, HubModel, VisionFamily
from pivot_jax.hub.fields import Fields, checked, section
from pivot_jax.hub.names import Layout, Rule, linear, norm, within
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.projector import ProjectorConfig
from pivot_jax.models.qwen_vision import FRAMES, MERGE, QwenVisionConfig

CLASSES = {"qwen2_vl": "Qwen2VLForConditionalGeneration", "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration"}
PROCESSORS = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}
TOKENS = {"image": 151655, "video": 151656, "vision_start": 151652, "vision_end": 151653}
_COMMON: dict[str, Any] = {
    "depth": 32, "num_heads": 16, "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
VISION_DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {**_COMMON, "embed_dim": 1280, "hidden_size": 3584, "hidden_act": "quick_gelu", "mlp_ratio": 4},
    "qwen2_5_vl": {
        **_COMMON, "hidden_size": 3584, "hidden_act": "silu", "intermediate_size": 3420, "window_size": 112,
        "out_hidden_size": 3584, "fullatt_block_indexes": [7, 15, 23, 31],
    },
}  # fmt: skip
TEXT_DEFAULTS: dict[str, Any] = {
    **language.DEFAULTS, "use_sliding_window": False, "max_position_embeddings": 32768,
    "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
}  # fmt: skip
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "silu": "silu"}
_OUTPUT = {"qwen2_vl": "hidden_size", "qwen2_5_vl": "out_hidden_size"}  # key of the merger's width
MROPE = (16, 24, 24)  # where config.json says nothing

# t frames, c colours, y x pixels of a patch, d e width, f hidden width of the MLP
_EMBED = (Rule("vision/embed/kernel", "patch_embed.proj.weight", "d c t y x -> t (y x c) d"),)
_ATTENTION = (
    *(
        Rule(f"attn/{name}/{leaf}", f"attn.qkv.{theirs}", pattern, part=(i, 3))
        for leaf, theirs, pattern in (("kernel", "weight", "e d -> d e"), ("bias", "bias", "e -> e"))
        for i, name in enumerate("qkv")
    ),
    *linear("attn/out", "attn.proj", "d e"),
)
_MLP = {
    "qwen2_vl": (*linear("mlp/fc1", "mlp.fc1", "d f"), *linear("mlp/fc2", "mlp.fc2", "f d")),
    "qwen2_5_vl": (
        *linear("mlp/gate", "mlp.gate_proj", "d f"),
        *linear("mlp/up", "mlp.up_proj", "d f"),
        *linear("mlp/down", "mlp.down_proj", "f d"),
    ),
}
# w width of the tower, i j width of a merged token, d decoder width
_MERGER = (
    *linear("projector/fc1", "visual.merger.mlp.0", "i j"),
    *linear("projector/fc2", "visual.merger.mlp.2", "i d"),
)


def _tower_rules(kind: str) -> tuple[Rule, ...]:
    bias = _has_norm_bias(kind)
    norms = (*norm("ln1", "norm1", bias=bias), *norm("ln2", "norm2", bias=bias))
    return (*_EMBED, *within((*norms, *_ATTENTION, *_MLP[kind]), "vision/blocks/", "blocks.{layer}."))


def _has_norm_bias(kind: str) -> bool:
    """Whether the tower's norms are layer norms; Qwen2.5-VL has RMS norms."""
    return kind == "qwen2_vl"


def sizes(cfg: QwenVisionConfig, final: bool) -> dict[str, int]:
    """Sizes of the letters of ``vision``."""
    return {
        **{"d": cfg.width, "e": cfg.width, "f": cfg.mlp_dim, "layers": cfg.depth},
        **{"t": FRAMES, "c": 3, "y": cfg.patch_size, "x": cfg.patch_size},
    }


def merger_sizes(cfg: QwenVisionConfig, width: int) -> dict[str, int]:
    """Sizes of the letters of ``projector``; ``width`` is the decoder's."""
    merged = MERGE**2 * cfg.width
    return {"w": cfg.width, "i": merged, "j": merged, "d": width}


def words(cfg: QwenVisionConfig, final: bool) -> str:
    dimensions = f"vision of {cfg.depth} layers, width {cfg.width}, MLP {cfg.mlp_dim}"
    return f"{dimensions}, patch {cfg.patch_size}, variable-resolution images"


SPELLINGS = (
    (r"model\.visual\.", "visual."),
    (r"model\.language_model\.", "model."),
    (r"language_model\.model\.", "model."),
    (r"language_model\.(?=lm_head\.)", ""),
)


def _vision(raw: Mapping[str, Any], kind: str, where: str) -> QwenVisionConfig:
    # Files from before transformers 5 say in_chans.
    fields = Fields({"in_channels": raw.get("in_chans"), **raw}, VISION_DEFAULTS[kind], where)
    fields.only("in_channels", 3)
    fields.only("temporal_patch_size", FRAMES)
    fields.only("spatial_merge_size", MERGE)
    if fields["hidden_act"] not in _ACTIVATIONS:
        raise fields.fail("hidden_act", f"is {fields['hidden_act']!r}; supported: {', '.join(_ACTIVATIONS)}")
    own: dict[str, Any]
    if kind == "qwen2_vl":
        width = fields["embed_dim"]
        own = {"width": width, "mlp_dim": int(width * fields["mlp_ratio"]), "window": 0, "full_blocks": ()}
    else:
        fields.only("hidden_act", "silu")
        own = {"width": fields["hidden_size"], "mlp_dim": fields["intermediate_size"], "window": fields["window_size"]}
        own |= {"full_blocks": tuple(fields["fullatt_block_indexes"])}
        if any(not 0 <= block < fields["depth"] for block in own["full_blocks"]):
            raise fields.fail("fullatt_block_indexes", f"is {list(own['full_blocks'])}, of {fields['depth']} blocks")
    return checked(
        where,
        QwenVisionConfig,
        family=kind,
        patch_size=fields["patch_size"],
        depth=fields["depth"],
        heads=fields["num_heads"],
        activation=_ACTIVATIONS[fields["hidden_act"]],
        **own,
    )


def _decoder(raw: Mapping[str, Any], where: str, tied: bool) -> DecoderConfig:
    fields = Fields(raw, TEXT_DEFAULTS, where)
    fields.only("use_sliding_window", False)
    found = language.read(fields, tied, mrope=True, qkv_bias=True)
    return found if found.mrope_section else dataclasses.replace(found, mrope_section=MROPE)


def _read(kind: str, raw: Mapping[str, Any], path: Path) -> HubModel:
    nested = "text_config" in raw
    text, where = (section(raw, "text_config", path), f"{path} text_config") if nested else (raw, str(path))
    decoder = _decoder(text, where, bool(raw.get("tie_word_embeddings", False)))
    vision, where = section(raw, "vision_config", path), f"{path} vision_config"
    fields, key = Fields(vision, VISION_DEFAULTS[kind], where), _OUTPUT[kind]
    if fields[key] != decoder.width:
        raise fields.fail(key, f"is {fields[key]}, but the language model's width is {decoder.width}")
    ids = {name: raw.get(f"{name}_token_id", default) for name, default in TOKENS.items()}
    return HubModel(
        kind,
        vision=TOWERS[kind].read(vision, where, False),
        decoder=decoder,
        projector=ProjectorConfig(),
        image_token_id=ids["image"],
        image_around=(ids["vision_start"], ids["vision_end"]),
        video_token_id=ids["video"],
    )


def _write_vision(cfg: QwenVisionConfig) -> dict[str, Any]:
    """``vision_config``, but the width of the merger's output."""
    theirs = {ours: name for name, ours in _ACTIVATIONS.items()}
    vision: dict[str, Any] = {
        **{"depth": cfg.depth, "num_heads": cfg.heads, "patch_size": cfg.patch_size},
        "hidden_act": theirs[cfg.activation],
        **{"in_channels": 3, "in_chans": 3, "spatial_merge_size": MERGE, "temporal_patch_size": FRAMES},
    }
    if cfg.windowed:
        windows = {"window_size": cfg.window, "fullatt_block_indexes": list(cfg.full_blocks)}
        return vision | {"hidden_size": cfg.width, "intermediate_size": cfg.mlp_dim, **windows}
    if cfg.mlp_dim % cfg.width:
        raise UserError(
            f"the MLP of Qwen2-VL's tower is a whole multiple of its width; {cfg.mlp_dim} is none of {cfg.width}"
        )
    return vision | {"embed_dim": cfg.width, "mlp_ratio": cfg.mlp_dim // cfg.width}


def write(model: HubModel, text: Mapping[str, Any]) -> dict[str, Any]:
    """config.json in the hub's older form, which every version of transformers reads; ``text``: :func:`write_text`."""
    assert model.decoder is not None
    vision = {**TOWERS[model.model_type].write(model.vision, True, ""), _OUTPUT[model.model_type]: model.decoder.width}
    start, end = model.image_around or (TOKENS["vision_start"], TOKENS["vision_end"])
    video = TOKENS["video"] if model.video_token_id is None else model.video_token_id
    return {
        **text,
        **{"image_token_id": model.image_token_id, "video_token_id": video},
        **{"vision_start_token_id": start, "vision_end_token_id": end},
        "vision_config": vision,
    }


def write_text(kind: str, cfg: DecoderConfig, dtype: str) -> dict[str, Any]:
    """The language model's keys of config.json."""
    if cfg.head_dim and cfg.head_dim * cfg.heads != cfg.width:
        raise UserError(f"{CLASSES[kind]} has heads of width / heads; model.decoder.head_dim is {cfg.head_dim}")
    if not cfg.mrope_section:
        raise UserError(f"{CLASSES[kind]} has M-RoPE; with an empty model.decoder.mrope_section it says something else")
    plain = dataclasses.replace(cfg, mrope_section=())
    raw = language.write(plain, kind, CLASSES[kind], dtype)
    scaling = language.rope_scaling(plain)
    scaling = {"rope_type": "default", "type": "mrope"} if cfg.rope_scaling.rope_type == "default" else scaling
    left_out = ("head_dim", "rope_parameters")
    raw = {key: value for key, value in raw.items() if key not in left_out}
    return {**raw, "rope_scaling": {**scaling, "mrope_section": list(cfg.mrope_section)}, "use_sliding_window": False}


def image_processor(cfg: QwenVisionConfig) -> dict[str, Any]:
    """preprocessor_config.json. Images have at most ``max_patches`` patches there too."""
    most = min(cfg.max_pixels, cfg.max_patches * cfg.patch_size**2) if cfg.max_patches else cfg.max_pixels
    least = min(cfg.min_pixels, most)
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": PROCESSORS[cfg.family],
        **{"do_convert_rgb": True, "do_resize": True, "do_rescale": True, "do_normalize": True},
        **{"rescale_factor": 1 / 255, "resample": 3, "image_mean": list(cfg.mean), "image_std": list(cfg.std)},
        **{"min_pixels": least, "max_pixels": most, "size": {"shortest_edge": least, "longest_edge": most}},
        **{"patch_size": cfg.patch_size, "merge_size": MERGE, "temporal_patch_size": FRAMES},
    }


def read_processor(cfg: QwenVisionConfig, raw: Mapping[str, Any]) -> QwenVisionConfig:
    """The tower with the normalisation and the size limits of a preprocessor_config.json, in any of its spellings."""
    size = raw.get("size") or {}
    least = raw.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or cfg.min_pixels
    most = raw.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or cfg.max_pixels
    statistics: dict[str, Any] = {key: tuple(map(float, raw[f"image_{key}"])) for key in ("mean", "std")}
    return dataclasses.replace(cfg, min_pixels=int(least), max_pixels=int(most), **statistics)


def _tower(kind: str) -> VisionFamily:
    """The vision tower, which is a part of ``CLASSES[kind]`` and has no folder of its own."""
    return VisionFamily(
        model_type=kind,
        class_name=CLASSES[kind],
        prefix="visual.",
        rules=_tower_rules(kind),
        read=lambda raw, where, dropped: _vision(raw, kind, where),
        write=lambda cfg, final, dtype: _write_vision(cfg),
        sizes=sizes,
        words=words,
        processor=image_processor,
        read_processor=read_processor,
        whole_class=CLASSES[kind],
        merger_sizes=merger_sizes,
    )


TOWERS = {kind: _tower(kind) for kind in CLASSES}


def _rules(kind: str) -> tuple[Rule, ...]:
    """The whole model's."""
    closing = [("scale", "weight"), ("bias", "bias")][: 1 + _has_norm_bias(kind)]
    return (
        *within(TOWERS[kind].rules, theirs=TOWERS[kind].prefix),
        *(Rule(f"projector/norm/{ours}", f"visual.merger.ln_q.{theirs}", "w -> w") for ours, theirs in closing),
        *_MERGER,
        *qwen2.RULES,
    )


def _folder(kind: str) -> Folder:
    layout = Layout(_rules(kind), SPELLINGS, BUFFERS)
    stem = CLASSES[kind].removesuffix("ForConditionalGeneration")
    return Folder(
        functools.partial(_read, kind), lambda _: layout, CLASSES[kind], f"{stem}(ForConditionalGeneration|Model)"
    )


FOLDERS = {kind: _folder(kind) for kind in CLASSES}
