"""Batched extraction gives each image's own features, whatever the batch, and compiles once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.models.encoder import Encoder
from pivot_jax.probe import features
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


def test_bad_input():
    with pytest.raises(ValueError, match="pool 'max'"):
        features.extract(encode, {}, IMAGES, pool="max")
    with pytest.raises(ValueError, match="no images"):
        features.extract(encode, {}, IMAGES[:0])
