"""Two encoders in parallel: the parts of their features, parity with PyTorch's resizing; training and extraction."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pivot_jax.models import layers
from pivot_jax.models.convnext import ConvNeXtConfig
from pivot_jax.models.mllm import MLLM, init_params
from pivot_jax.models.vit import ViT, ViTConfig
from tests.tiny import pairs

SECONDS = {
    "ConvNeXt": ConvNeXtConfig(image_size=32, widths=(6, 10), depths=(1, 2)),
    "ViT of another grid": ViTConfig(image_size=24, patch_size=8, width=12, depth=2, heads=2, mlp_dim=16),
}


def random_params(model):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    return jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)


def images(size, count=2):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", SECONDS)
def test_the_second_encoder_s_features_stand_beside_the_first_s(name):
    second = SECONDS[name]
    model = MLLM(dataclasses.replace(pairs.CONFIG, second=second))
    params = random_params(model)
    pixels = images(16)

    @jax.jit
    def run(params, pixels):
        module = second.module()
        own = layers.resize_images(pixels, second.image_size)
        parts = [
            ViT(pairs.CONFIG.vision).apply({"params": params["vision"]}, pixels, method="features"),
            module.apply({"params": params["second"]}, own, method="features"),
        ]
        return model.apply({"params": params}, pixels[:, None], method="encode_images"), *parts

    both, first, other = run(params, pixels)
    grid, target = second.grid, pairs.CONFIG.vision.grid
    torch = pytest.importorskip("torch", reason="make test-compat installs no PyTorch")
    square = torch.tensor(np.asarray(other)).reshape(2, grid, grid, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(square, size=(target, target), mode="bilinear", align_corners=False)
    expected = np.concatenate([first, resized.permute(0, 2, 3, 1).reshape(2, target**2, -1).numpy()], -1)
    np.testing.assert_allclose(both, expected, atol=1e-5)
    assert params["projector"]["fc1"]["kernel"].shape[0] == pairs.CONFIG.vision.width + second.width


def test_images_are_resized_as_by_pil():
    for size, target in ((48, 32), (32, 48), (37, 20)):
        (image,) = images(size, 1)
        theirs = np.asarray(Image.fromarray(image).resize((target, target), Image.Resampling.BICUBIC), np.int32)
        ours = np.asarray(layers.resize_images(jnp.asarray(image)[None], target)[0], np.int32)
        assert np.abs(ours - theirs).max() <= 1, f"{size} to {target}"
