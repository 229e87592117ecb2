"""Batched extraction gives each image's own features, whatever the batch, and compiles once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.processing.tiles import Tiles
from pivot_jax.errors import UserError
from pivot_jax.models.encoder import Encoder
from pivot_jax.probe import features
from pivot_jax.probe.feature_settings import FeatureSettings, encode_of
from pivot_jax.probe.image_sets import ImageSet
from tests.probe.conftest import tiny_encoder
from tests.tiny import mllm

IMAGES = np.random.default_rng(0).integers(0, 255, (11, 8, 8, 3), dtype=np.uint8)
traces = []


def encode(params, images):
    traces.append(images.shape)
    patches = images.reshape(len(images), 2, 4, 2, 4, 3).astype(jnp.float32).mean((2, 4)).reshape(len(images), 4, 3)
    return patches * params["scale"]


def test_pooling_batches_and_sequences_agree():
    params = {"scale": np.float32(2.0)}
    whole = features.extract(encode, params, IMAGES, batch_size=64, pool="none", show=False)
    assert whole.shape == (11, 4, 3)
    count = len(traces)
    small = features.extract(encode, params, IMAGES, batch_size=4, pool="none", show=False)
    assert len(traces) == count + 1 and traces[-1][0] == 4  # three batches, one program
    np.testing.assert_allclose(small, whole, rtol=1e-6)
    mean = features.extract(encode, params, list(IMAGES), batch_size=4, show=False)
    np.testing.assert_allclose(mean, whole.mean(1), rtol=1e-5)
    unit = features.extract(encode, params, IMAGES, l2=True, show=False)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)


def test_encoders_of_a_model():
    module, params = mllm.tiny_mllm(11)
    encoder = Encoder(module.config.encoder)
    vit = features.extract(features.vit_encoder(encoder), params, IMAGES, pool="none", batch_size=8, show=False)
    seen = features.extract(features.projector_encoder(encoder), params, IMAGES, pool="none", batch_size=8, show=False)
    assert vit.shape == (11, 4, 8) and seen.shape == (11, 4, 16)
    project = jax.jit(lambda x: module.apply({"params": params}, x, method="project"))
    expected = project(jnp.asarray(vit[3]))
    np.testing.assert_allclose(seen[3], expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 5])
@pytest.mark.heavy_after(1)
def test_each_image_is_read_on_its_own_grid(batch_size):
    """Padded and trimmed lists of patches give what the encoder gives for the image alone, without padding."""
    generator, encoder = np.random.default_rng(1), tiny_encoder("siglip2_naflex")
    sizes = ((12, 40), (16, 16), (5, 30), (33, 9), (20, 21))
    images = [generator.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    prepared = ImageSet(images, encoder.geometry)
    encode, pool = encode_of(encoder.module, FeatureSettings(pool="none"))
    settings = dict(batch_size=batch_size, show=False)
    patches, positions = features.extract_on_grids(encode, encoder.params, prepared, pool=pool, **settings)
    mean = features.extract(encode, encoder.params, prepared, pool="mean", **settings)
    blocks = features.extract(
        features.blocks_encoder(encoder.module), encoder.params, prepared, pool="whole", **settings
    )
    lengths = []
    for index, image in enumerate(images):
        rows, columns = encoder.geometry.token_grid(image)
        arrays = encoder.geometry.convert(Image.fromarray(image))
        real, lengths = arrays.positions[0, :, 0] >= 0, [*lengths, rows * columns]
        alone = np.asarray(encode(encoder.params, arrays.pixels[:, real], arrays.positions[:, real]))[0]
        assert len(alone) == rows * columns == real.sum()
        np.testing.assert_allclose(patches[index, : len(alone)], alone, atol=1e-5)
        assert (patches[index, len(alone) :] == 0).all() and (positions[index, len(alone) :] == -1).all()
        np.testing.assert_array_equal(positions[index, : len(alone)], arrays.positions[0, real])
        np.testing.assert_allclose(mean[index], alone.mean(0), atol=1e-5)
        np.testing.assert_allclose(blocks[index, -1], alone.mean(0), atol=1e-5)
    assert patches.shape[1] == max(lengths)


def test_what_an_encoder_does_not_have_is_named():
    for kind, settings, says in (
        ("siglip", dict(pool="class"), "hf:siglip is a siglip encoder, which has no class token"),
        ("clip", dict(pool="attention"), "hf:clip is a clip encoder which has no pooling head"),
        ("siglip", dict(layer=1), "layer 1: hf:siglip computes blocks 0 to 0"),
        ("siglip", dict(where="decoder"), "features 'decoder' are unknown"),
        ("siglip", dict(pool="max"), "pool 'max' is unknown"),
        ("siglip", dict(layer=0, pool="class"), "leave out layer 0"),
        ("siglip", dict(where="projector", layer=0), "layer 0: is read in the vision encoder"),
    ):
        encoder = tiny_encoder(kind)
        with pytest.raises(UserError, match=says):
            encode_of(encoder.module, FeatureSettings(**settings), encoder.name)
    tiles = Tiles("siglip", 16, 4, 5)
    with pytest.raises(UserError, match="reads it in tiles; write its encoder alone"):
        ImageSet([], tiles)


def test_bad_input():
    with pytest.raises(ValueError, match="pool 'max'"):
        features.extract(encode, {}, IMAGES, pool="max")
    with pytest.raises(ValueError, match="no images"):
        features.extract(encode, {}, IMAGES[:0])
