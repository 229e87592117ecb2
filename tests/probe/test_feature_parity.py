"""Vectors of whole images equal transformers' on the same folders: SigLIP's head, class tokens after the last norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pivot_jax.probe.feature_cache import read_features
from pivot_jax.probe.feature_settings import FeatureSettings
from pivot_jax.probe.image_sets import ImageSet
from pivot_jax.train.open import open_encoder
from tests.tiny import hf

CASES = {
    "siglip_vision_model": ("attention", lambda found: found.pooler_output),
    "clip_vision_model": ("class", lambda found: found.pooler_output),
    "dinov2": ("class", lambda found: found.pooler_output),
    "dinov2_with_registers": ("class", lambda found: found.pooler_output),
    "vit": ("class", lambda found: found.last_hidden_state[:, 0]),
    "vit_mae": ("class", lambda found: found.last_hidden_state[:, 0]),
}


@pytest.mark.parametrize("kind", CASES)
def test_vectors_of_squares(tmp_path, kind):
    model = hf.encoder(kind)
    hf.save(model, tmp_path)
    encoder = open_encoder(f"hf:{tmp_path}")
    images = np.random.default_rng(0).integers(0, 255, (3, 24, 24, 3), dtype=np.uint8)
    pool, theirs = CASES[kind]
    found = read_features(encoder, ImageSet(images, encoder.geometry), FeatureSettings(pool=pool), show=False).values
    vision = encoder.module.config.vision
    pixels = (images / np.float32(255) - np.asarray(vision.mean, np.float32)) / np.asarray(vision.std, np.float32)
    assert hf.max_gap(found, theirs(hf.encode(model, pixels.astype(np.float32)))) < 2e-4


def test_pooling_head_of_naflex(tmp_path):
    model = hf.encoder("siglip2_vision_model")
    hf.save(model, tmp_path)
    encoder = open_encoder(f"hf:{tmp_path}")
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (*size, 3), dtype=np.uint8) for size in ((40, 17), (24, 24), (9, 60))]
    settings = FeatureSettings(pool="attention")
    found = read_features(encoder, ImageSet(images, encoder.geometry), settings, show=False).values
    for index, image in enumerate(images):
        pixels, positions = encoder.geometry.convert(Image.fromarray(image))
        shape = torch.tensor([encoder.geometry.token_grid(image)])
        mask = torch.tensor(positions[..., 0] >= 0).long()
        with torch.no_grad():
            theirs = model(torch.tensor(pixels / np.float32(127.5) - 1), mask, shape).pooler_output[0]
        assert hf.max_gap(found[index], theirs) < 2e-4
