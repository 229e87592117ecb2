"""Tiny random Qwen2-VL and Qwen2.5-VL models, with the same rows of text and images for them and for ours."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.batch import PromptBatch
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.data.processing.patches import Patches, patches_of
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from tests.tiny import hf, processing

AROUND = ("<|vision_start|>", "<|vision_end|>")
VOCAB, MOST, PATCH = 330, 32, 4
TEXTS = ["What color is the circle? The circle is red.", "How many squares are there? Two blue squares."]
SIZES = {"a": (24, 32), "b": (8, 40), "c": (16, 16)}  # images: height, width
ROWS = (("What color is it?", "ab"), ("Compare them.", "cba"), ("How are you today?", ""))
_VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": dict(embed_dim=24, mlp_ratio=2),
    "qwen2_5_vl": dict(hidden_size=24, intermediate_size=36, window_size=16, fullatt_block_indexes=[1]),
}
_CLASSES = {
    "qwen2_vl": (transformers.Qwen2VLConfig, transformers.Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (transformers.Qwen2_5_VLConfig, transformers.Qwen2_5_VLForConditionalGeneration),
}
_OUTPUT = {"qwen2_vl": "hidden_size", "qwen2_5_vl": "out_hidden_size"}


def tokenizer(folder: Any) -> Any:
    """A byte-level BPE with Qwen-VL's special tokens, also saved to the folder."""
    made = load_tokenizer(train_bpe(TEXTS, 300, folder))
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|image_pad|>", *AROUND]})
    made.save_pretrained(folder)
    return made


def model(kind: str, tokens: Any, seed: int = 0, vision: dict | None = None, text: dict | None = None) -> Any:
    """A random model of transformers; ``vision`` and ``text`` change its sections."""
    sizes: dict[str, Any] = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, vocab_size=VOCAB)
    sizes |= dict(num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6)
    sizes |= dict(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]})
    sizes |= dict(pad_token_id=None, bos_token_id=None, eos_token_id=None)
    sizes |= text or {}
    tower = dict(depth=3, num_heads=2, patch_size=PATCH, **_VISION[kind]) | (vision or {})
    ids = {f"{name}_token_id": tokens.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    ids |= dict(image_token_id=tokens.convert_tokens_to_ids("<|image_pad|>"), video_token_id=VOCAB + 1)
    tied = sizes.pop("tie_word_embeddings", True)
    configuration, made = _CLASSES[kind]
    tower[_OUTPUT[kind]] = sizes["hidden_size"]
    return hf._random(
        made(configuration(text_config=sizes, vision_config=tower, tie_word_embeddings=tied, **ids)), seed
    )


def geometry(kind: str, patch: int = PATCH, window: int = 0) -> Patches:
    made = patches_of(dict(preset=kind, max_patches=MOST * 4, min_pixels=4 * patch**2, max_pixels=10**6), patch)
    assert made is not None
    return dataclasses.replace(made, window=window)


def processor(kind: str, tokens: Any, patch: int = PATCH, window: int = 0) -> Processor:
    """Of prompts with up to three images; ``window``: patches per side."""
    settings = dict(max_images=3, mrope=True, image_around=AROUND, max_length=512)
    return processing.processor(tokens, geometry=geometry(kind, patch, window), **settings)


def random_images(patch: int = PATCH, seed: int = 0) -> dict[str, np.ndarray]:
    """Random images of whole tokens: nothing is resized."""
    rng = np.random.default_rng(seed)
    scale = patch // PATCH
    return {k: rng.integers(0, 256, (h * scale, w * scale, 3), dtype=np.uint8) for k, (h, w) in SIZES.items()}


def examples(patch: int = PATCH, seed: int = 0) -> list[Example]:
    """Rows with two, three and no images."""
    shown = random_images(patch, seed)
    return [
        Example(str(i), (Message("user", "<image>\n" * len(names) + text),), tuple(shown[name] for name in names))
        for i, (text, names) in enumerate(ROWS)
    ]


def batch(of: Processor, rows: list[Example], length: int = 0) -> PromptBatch:
    """Ours, right padded, to ``length`` tokens or to the longest row."""
    found = of.batch_of(rows)
    images = ImageArrays(found.images, found.patch_positions)
    return of.batch([of.encode(row) for row in rows], images, (length or found.tokens.shape[1], 0))


def theirs(of: Processor, rows: list[Example], left: bool = False) -> dict[str, torch.Tensor]:
    """Inputs of transformers' model: our ids (padded on either side), their processor's pixels."""
    patch = of.geometry.patch  # type: ignore[attr-defined]
    limits = {"shortest_edge": 4 * patch**2, "longest_edge": 10**6}
    convert = Qwen2VLImageProcessorPil(patch_size=patch, size=limits)
    tokens = [of.encode(row).tokens for row in rows]
    length = max(map(len, tokens))
    ids, mask = np.full((len(rows), length), of.chat.pad_id), np.zeros((len(rows), length), int)
    for i, row in enumerate(tokens):
        own = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, own], mask[i, own] = row, 1
    found = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    found["mm_token_type_ids"] = (found["input_ids"] == of.chat.image_id).long()
    if images := [image for row in rows for image in row.images]:
        found |= convert(images=[Image.fromarray(image) for image in images], return_tensors="pt")
    return found
