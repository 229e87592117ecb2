"""What stands beside the weights in an exported folder: config.json, processor and generation settings, the card."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.hub import chat
from pivot_jax.hub.configs import ACTIVATIONS
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.vit import ViTConfig

_BICUBIC = 3  # PIL's code, as transformers writes it


def vision_json(cfg: ViTConfig, *, final: bool, dtype: str) -> dict[str, Any]:
    """config.json of a SiglipVisionModel; without ``final`` it has one layer less and no head."""
    if cfg.activation not in ACTIVATIONS:
        raise UserError(f"SigLIP has no activation '{cfg.activation}' (there are: {', '.join(ACTIVATIONS)})")
    raw = {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
        "dtype": dtype,
        "attention_dropout": 0.0,
        "hidden_act": ACTIVATIONS[cfg.activation],
        "hidden_size": cfg.width,
        "image_size": cfg.image_size,
        "intermediate_size": cfg.mlp_dim,
        "layer_norm_eps": cfg.eps,
        "num_attention_heads": cfg.heads,
        "num_channels": 3,
        "num_hidden_layers": cfg.depth if final else cfg.depth - 1,
        "patch_size": cfg.patch_size,
        "vision_use_head": bool(final and cfg.pool_head),
    }
    # transformers passes this key over here; ours reads it, so that the features stay those of the same block
    return raw if final else {**raw, "vision_feature_layer": -1}


def decoder_json(cfg: DecoderConfig, *, dtype: str, max_positions: int, tokenizer: Any = None) -> dict[str, Any]:
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
        **special_tokens(tokenizer),
    }
    return {**raw, "head_dim": cfg.head_dim} if cfg.head_dim else raw


def llava_json(vision: Mapping[str, Any], text: Mapping[str, Any], image_token_id: int, patches: int) -> dict[str, Any]:
    """config.json of a LlavaForConditionalGeneration from its two parts' objects."""
    vision = dict(vision)
    layer = vision.pop("vision_feature_layer", -2)
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": text["dtype"],
        "image_seq_length": patches,
        "image_token_index": image_token_id,
        "multimodal_projector_bias": True,
        "projector_hidden_act": "gelu",
        "text_config": dict(text),
        "tie_word_embeddings": text["tie_word_embeddings"],
        "vision_config": vision,
        "vision_feature_layer": layer,
        "vision_feature_select_strategy": "full",
    }


def special_tokens(tokenizer: Any) -> dict[str, Any]:
    """bos, eos and pad ids of a tokenizer (None without one)."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}


def write_image_processor(folder: Path, cfg: ViTConfig) -> None:
    """preprocessor_config.json: squash to a square with bicubic interpolation, then normalise."""
    side = {"height": cfg.image_size, "width": cfg.image_size}
    settings = {
        "image_processor_type": "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": side,
        "resample": _BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(cfg.mean),
        "image_std": list(cfg.std),
    }
    write_json(folder / "preprocessor_config.json", settings)


def write_generation(folder: Path, tokenizer: Any) -> None:
    """generation_config.json: greedy, with the tokenizer's stop token."""
    ids = {key: value for key, value in special_tokens(tokenizer).items() if value is not None}
    write_json(folder / "generation_config.json", {"do_sample": False, **ids})


def write_llava_processor(folder: Path, cfg: ViTConfig, image_token: str, system: str) -> None:
    """processor_config.json of a LlavaProcessor, and the ChatML template with the image token."""
    settings = {
        "processor_class": "LlavaProcessor",
        "image_token": image_token,
        "num_additional_image_tokens": 0,
        "patch_size": cfg.patch_size,
        "vision_feature_select_strategy": "full",
    }
    write_json(folder / "processor_config.json", settings)
    write_chat_template(folder, chat.jinja(system, image_token))


def write_chat_template(folder: Path, template: str) -> None:
    """chat_template.jinja, in place of the one that came with the tokenizer."""
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def write_card(folder: Path, title: str, pipeline: str, lines: list[str]) -> None:
    """README.md, the model card."""
    head = f"---\nlibrary_name: transformers\npipeline_tag: {pipeline}\ntags: [pivot-jax]\n---\n"
    (folder / "README.md").write_text("\n".join([head, f"# {title}", "", *lines, ""]), encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_place(folder: Path, overwrite: bool) -> None:
    """Raises UserError where an export may not go: a file, or a folder with content that is not to be replaced."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the export")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(
            f"{folder} is not empty; name another folder, or add --overwrite (overwrite=True) to replace it"
        )


@contextlib.contextmanager
def whole_or_nothing(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when the block ends well, and else goes away.

    Raises:
      UserError: ``folder`` has content and ``overwrite`` is False; or writing failed (full disk, permissions).
    """
    check_place(folder, overwrite)
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
        yield partial
        partial.chmod(0o755)
        _take_place(partial, folder)
    except OSError as error:
        raise UserError(f"export to {folder} failed ({error}); nothing was changed there; name another disk") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _take_place(new: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(new, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
    os.replace(folder, old)  # an empty folder may be replaced
    try:
        os.rename(new, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
