"""Parity of LLaVA-OneVision with transformers on tiled images, live: tiles, logits, folders."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from pivot_jax import hub
from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.collate import Collation, vlm_batch
from pivot_jax.data.processing.geometry import ImageArrays
from pivot_jax.data.processing.tiles import GRID_SIDE, Tiles, tile_grid
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.models.mllm import MLLM, head_matrix
from tests.parity import compare
from tests.tiny import hf, processing

TILE, PATCH, TILES = 24, 8, GRID_SIDE**2 + 1
PINPOINTS = [[TILE * r, TILE * c] for r in range(1, GRID_SIDE + 1) for c in range(1, GRID_SIDE + 1)]
SQUARE = dict(image_size=TILE, patch_size=PATCH, vision_use_head=False)
SHAPES = {
    "tied": {},
    "untied, odd sizes": dict(
        vision=dict(hidden_size=20, num_attention_heads=5),
        text=dict(tie_word_embeddings=False, hidden_size=30, num_attention_heads=5, num_key_value_heads=1),
    ),
    "penultimate features, Llama": dict(text=dict(family="llama"), vision_feature_layer=-2),
}
SIZES = ((24, 24), (50, 90), (130, 20))  # height and width: one tile, a map that is kept, one that is shrunk


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = ["What is it? It is a cat.", "system user assistant You are a helpful assistant."]
    return load_tokenizer(train_bpe(texts, 300, tmp_path_factory.mktemp("tokenizer")))


def onevision(tokenizer, vision=None, text=None, **changes):
    vocabulary = len(tokenizer) + 3
    config = transformers.LlavaOnevisionConfig(
        vision_config=hf.encoder_config("siglip_vision_model", **SQUARE, **(vision or {})),
        text_config=hf.text_config(**({"vocab_size": vocabulary} | (text or {}))),
        image_token_index=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_index=vocabulary + 1,
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=(text or {}).get("tie_word_embeddings", True),
        **changes,
    )
    return hf._random(transformers.LlavaOnevisionForConditionalGeneration(config), 0)


def random_images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)) for size in SIZES]


def prompts(tokenizer):
    """A batch of one tiled image per row, as the loader makes it; its rows and their tiles."""
    made = processing.processor(tokenizer, geometry=Tiles("siglip", TILE, TILE // PATCH, TILES))
    turns = (Message("user", "<image>\nWhat is it?"),)
    examples = [Example(str(i), turns, (np.asarray(image),)) for i, image in enumerate(random_images())]
    rows = [made.encode(example) for example in examples]
    images = ImageArrays(made.batch_of(examples).images)
    return made.batch(rows, images, (max(len(row.tokens) for row in rows) + 3, 0)), rows, images


def theirs(model, batch, rows):
    process = LlavaOnevisionImageProcessorPil(size={"height": TILE, "width": TILE}, image_grid_pinpoints=PINPOINTS)
    process.image_mean = process.image_std = [0.5] * 3
    inputs = process(random_images(), return_tensors="pt")
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(batch.tokens).long(), attention_mask=torch.tensor(batch.segments).long(),
            pixel_values=inputs["pixel_values"], image_sizes=inputs["image_sizes"],
            batch_num_images=torch.ones(len(rows), dtype=torch.long),
        )  # fmt: skip
    return out.logits.numpy()


@pytest.mark.parametrize("name", SHAPES)
def test_logits_of_tiled_images(tmp_path, tokenizer, name):
    model = onevision(tokenizer, **SHAPES[name])
    model.save_pretrained(tmp_path / "theirs")
    found = hub.read_config(tmp_path / "theirs")
    cfg, params = found.mllm, hub.load_params(tmp_path / "theirs")
    assert found.max_tiles == TILES and cfg.projector.newline
    batch, rows, _ = prompts(tokenizer)
    mllm = MLLM(cfg)

    @jax.jit
    def run(params, batch):
        hidden = mllm.apply({"params": params}, batch, method="hidden")
        return jnp.einsum("bnd,vd->bnv", hidden, head_matrix(params))

    real = batch.segments > 0
    compare("LLaVA-OneVision", name, "logits", np.asarray(run(params, batch))[real], theirs(model, batch, rows)[real])
    hub.export_mllm(params, cfg, tmp_path / "ours", text=hub.ExportText(tokenizer))
    again = hub.read_config(tmp_path / "ours")
    assert again.mllm == cfg and again.max_tiles == TILES
    jax.tree.map(np.testing.assert_array_equal, params, hub.load_params(tmp_path / "ours"))
    loaded = transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(theirs(loaded, batch, rows), theirs(model, batch, rows))
    # (AutoProcessor would load a video processor too, which needs torchvision)
    process = LlavaOnevisionImageProcessorPil.from_pretrained(tmp_path / "ours")
    pixels = process(random_images(), return_tensors="np")["pixel_values"].transpose(0, 1, 3, 4, 2)
    for ours, made, size in zip(batch.images, pixels, SIZES, strict=True):
        count = 1 + math.prod(tile_grid(*size, TILE, TILES))  # after them both are padded
        compare("LLaVA-OneVision", name, "tiles", ours[:count] / 127.5 - 1, made[:count], limit=1 / 127)


def test_packed_rows_read_their_own_images(tokenizer):
    """The taps of the second row of a sequence count from its own tiles."""
    _, rows, images = prompts(tokenizer)
    index, longest = np.arange(2), sum(len(row.tokens) for row in rows[1:])
    pixels = ImageArrays(images.pixels[1:])
    packed = vlm_batch(rows[1:], pixels, index, (longest, 1), Collation(0, (TILE // PATCH) ** 2), packing=2)
    taps = packed.tile_taps[0][packed.segments[0] == 2]
    own = rows[2].tile_taps
    offset = TILES * (TILE // PATCH) ** 2
    np.testing.assert_array_equal(taps, np.where(own < 0, -1, own + offset))
    assert packed.images.shape[:2] == (1, 2 * TILES)
