"""Any-resolution tiling against transformers' processor and packing of LLaVA-OneVision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.llava_onevision import image_processing_pil_llava_onevision as processor
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from pivot_jax.data.processing import tiles

ALL = tiles.GRID_SIDE**2 + 1
SIZES = ((40, 40), (97, 31), (200, 350), (333, 120), (17, 300), (30, 500), (260, 260), (401, 399))


def random_image(height, width):
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tiles_are_the_processor_s(height, width):
    tile = 48
    pinpoints = [[r * tile, c * tile] for r in range(1, 7) for c in range(1, 7)]
    process = processor.LlavaOnevisionImageProcessorPil(
        size={"height": tile, "width": tile}, image_grid_pinpoints=pinpoints, do_rescale=False, do_normalize=False
    )
    theirs = process(random_image(height, width), return_tensors="np")["pixel_values"][0].transpose(0, 2, 3, 1)
    ours = tiles.tiles(random_image(height, width), tile, ALL, Image.Resampling.BICUBIC)
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tokens_are_what_the_model_packs(height, width):
    grid, tile, d = 4, 48, 3
    pinpoints = [[r * tile, c * tile] for r in range(1, 7) for c in range(1, 7)]
    vision = transformers.SiglipVisionConfig(
        image_size=tile, patch_size=tile // grid, hidden_size=8, num_attention_heads=1, num_hidden_layers=1
    )
    config = transformers.LlavaOnevisionConfig(vision_config=vision, image_grid_pinpoints=pinpoints)
    stub = type("Packer", (), {"config": config})()
    rows, columns = tiles.tile_grid(height, width, tile, ALL)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1 + rows * columns, grid**2, d)).astype(np.float32)
    newline = rng.normal(size=d).astype(np.float32)
    (theirs,), _ = LlavaOnevisionModel.pack_image_features(
        stub, [torch.tensor(features)], torch.tensor([[height, width]]), torch.tensor(newline)
    )
    found = tiles.layout(height, width, tile, ALL, grid)
    flat = np.concatenate([features.reshape(-1, d), newline[None]])
    ours = np.einsum("nkd,nk->nd", flat[found.taps], found.weights)
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_a_limit_on_tiles_keeps_the_grid_small():
    assert tiles.tile_grid(4000, 4000, 384, 10) == (3, 3)
    assert tiles.tiles(random_image(400, 100), 48, 5, Image.Resampling.BICUBIC).shape[0] <= 5
