"""Tiny random Hugging Face models and folders that the hub and parity tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from pivot_jax import hub
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.train.hub_import import import_folder

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)  # tests run side by side; threads that wait for each other are slower than one

IMAGE_TOKEN = 3


def text_config(family: str = "qwen2", **changes: Any) -> transformers.PreTrainedConfig:
    """``family``: qwen2, qwen3 or llama."""
    sizes = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, vocab_size=61)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    heads |= dict(head_dim=10) if family == "qwen3" else {}
    kind = {"qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config, "llama": transformers.LlamaConfig}
    return kind[family](**{**sizes, **heads, **changes})


def vision_model(seed: int = 0, **changes: Any) -> transformers.SiglipVisionModel:
    return encoder("siglip_vision_model", seed, **changes)


def text_model(seed: int = 0, family: str = "qwen2", **changes: Any) -> transformers.PreTrainedModel:
    return _random(transformers.AutoModelForCausalLM.from_config(text_config(family, **changes)), seed)


ENCODERS = {  # by model_type
    "siglip_vision_model": transformers.SiglipVisionModel,
    "siglip2_vision_model": transformers.Siglip2VisionModel,
    "clip_vision_model": transformers.CLIPVisionModel,
    "dinov2": transformers.Dinov2Model,
    "dinov2_with_registers": transformers.Dinov2WithRegistersModel,
    "vit_mae": transformers.ViTMAEModel,
    "vit": transformers.ViTModel,
}


def encoder_config(kind: str, **changes: Any) -> Any:
    """A tiny configuration of a vision family, by its model_type."""
    sizes: dict[str, Any] = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, patch_size=8)
    sizes |= {"num_patches": 9} if kind == "siglip2_vision_model" else {"image_size": 24}
    sizes |= {"mlp_ratio": 2} if kind.startswith("dinov2") else {"intermediate_size": 36}
    sizes |= {"mask_ratio": 0.0} if kind == "vit_mae" else {}
    return ENCODERS[kind].config_class(**{**sizes, **changes})


def encoder(kind: str, seed: int = 0, **changes: Any) -> Any:
    return _random(ENCODERS[kind](encoder_config(kind, **changes)), seed)


def encode(model: Any, images: np.ndarray, resize: bool = False) -> Any:
    """The encoder's outputs with hidden states. ``images``: float32 [b, H, W, 3]; ``resize``: its position table."""
    kind, more = model.config.model_type, {}
    if resize and not kind.startswith("dinov2"):  # which always does
        more["interpolate_pos_encoding"] = True
    if kind == "vit_mae":  # increasing noise keeps the patches in order
        patches = (images.shape[1] // model.config.patch_size) * (images.shape[2] // model.config.patch_size)
        more["noise"] = torch.arange(patches).float().repeat(len(images), 1)
    with torch.no_grad():
        pixels = torch.tensor(images).permute(0, 3, 1, 2).to(model.dtype)
        return model(pixels, output_hidden_states=True, **more)


def llava_model(seed: int = 0, vision: dict | None = None, text: dict | None = None, **changes: Any):
    """``vision``, ``text``: as for :func:`encoder_config` and :func:`text_config`, with a ``kind`` and a ``family``.

    CLIP's tower has a class token, which is dropped.
    """
    vision = {"kind": "siglip_vision_model", **(vision or {})}
    config = transformers.LlavaConfig(
        vision_config=encoder_config(**vision),
        text_config=text_config(**(text or {})),
        image_token_index=IMAGE_TOKEN,
        vision_feature_select_strategy="default" if vision["kind"] == "clip_vision_model" else "full",
        **changes,
    )
    return _random(transformers.LlavaForConditionalGeneration(config), seed)


def _random(model: torch.nn.Module, seed: int) -> Any:
    """Weights of a size at which every one of them matters: also biases and norms, which start at 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            around = 1.0 if ("norm" in name and name.endswith("weight")) or name.endswith("lambda1") else 0.0
            weight.copy_(around + noise * (0.1 if weight.ndim < 2 else weight.shape[-1] ** -0.5))
    return model.eval()


def save(model: torch.nn.Module, folder: Path, config: Any = None) -> None:
    """Weights under the names that they have in memory; ``save_pretrained`` restores a loaded file's spelling."""
    folder.mkdir(exist_ok=True)
    weights = {
        key: value.contiguous().numpy() for key, value in model.state_dict().items() if value.is_floating_point()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = config or model.config
    config.save_pretrained(folder)


def rewrite(folder: Path, rename: Any = None, drop: Any = None, config: dict | None = None) -> None:
    """Changes a saved folder in place: keys of the weights, and config.json (None deletes a key)."""
    path = folder / "model.safetensors"
    tensors = {(rename(k) if rename else k): v for k, v in load_file(path).items() if not (drop and drop(k))}
    save_file(tensors, path, metadata={"format": "pt"})
    if config is not None:
        raw = json.loads((folder / "config.json").read_text())
        raw.update(config)
        raw = {key: value for key, value in raw.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(raw))


def max_gap(ours: Any, theirs: torch.Tensor) -> float:
    return float(np.max(np.abs(np.asarray(ours) - theirs.detach().numpy())))


def parts_and_imports(root: Path) -> Path:
    """A LLaVA folder ``whole``, its parts as ``encoder`` and ``decoder``, and each imported as ``NAME_here``."""
    tokenizer = load_tokenizer(train_bpe(["what colour is the circle? red", "how many? three"], 270, root / "bpe"))
    llava_model(text=dict(vocab_size=len(tokenizer))).save_pretrained(root / "whole")
    tokenizer.save_pretrained(root / "whole")
    params, cfg = hub.load_params(root / "whole"), hub.read_config(root / "whole").mllm
    hub.export_encoder(params, cfg, root / "encoder")
    hub.export_decoder(params, cfg, root / "decoder", text=hub.ExportText(tokenizer))
    for name in ("whole", "encoder", "decoder"):
        import_folder(root / name, root / f"{name}_here")
    return root
