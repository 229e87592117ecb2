"""Probes tell a trained encoder from an untrained one on real images: CIFAR-10 and CamVid, squares and NaFlex."""

from __future__ import annotations

import dataclasses
import zipfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image, ImageOps

from pivot_jax.data.processing.geometry import Square
from pivot_jax.data.processing.patches import Patches
from pivot_jax.models.encoder import Encoder, EncoderConfig
from pivot_jax.models.vit import ViTConfig
from pivot_jax.probe import class_sets, features
from pivot_jax.probe.classification import ProbeSettings
from pivot_jax.probe.encoder_probes import classify, segment
from pivot_jax.probe.feature_settings import FeatureSettings, encode_of
from pivot_jax.probe.heads import Training
from pivot_jax.probe.image_sets import ImageSet
from pivot_jax.probe.segmentation import SegmentSettings
from pivot_jax.train.open import OpenEncoder

CAMVID = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "Sign", "Fence", "Car", "Pedestrian", "Bicyclist")
STEPS, BATCH = 1500, 100


@pytest.fixture(scope="module")
def cifar(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar")
    with zipfile.ZipFile(shared_data / "cifar10_mini" / "cifar10_mini.zip") as packed:
        packed.extractall(folder)
    return next(path.parent for path in folder.rglob("train") if path.is_dir())


def untrained(kind: str, most: int = 64) -> OpenEncoder:
    """An encoder of 64 patches of 4 pixels as its initialisers make it; NaFlex reads up to ``most`` patches."""
    config = ViTConfig(image_size=32, patch_size=4, width=64, depth=4, heads=4, mlp_dim=128, pool_head=False)
    if kind == "siglip2_naflex":
        config = dataclasses.replace(config, family=kind, preset=kind, max_patches=most)
    encoder = Encoder(EncoderConfig(config))
    params = jax.jit(partial(encoder.init, method="whole"))(jax.random.key(0), *config.example_input())["params"]
    geometry = Patches(kind, 4, most, 0, 0) if kind == "siglip2_naflex" else Square("siglip", 32, 64)
    return OpenEncoder(kind, encoder, params, geometry)


def trained(encoder: OpenEncoder, cifar) -> OpenEncoder:
    """Trained to name the class of CIFAR's training images and of their mirror images."""
    found, names = class_sets.classification(cifar)
    split = found["train"].whole
    mirrored = [np.asarray(ImageOps.mirror(Image.open(path))) for path in split.images]
    images = ImageSet([*split.images, *mirrored], encoder.geometry)
    arrays = features._stacked([images[index] for index in range(len(images))])
    encode, _ = encode_of(encoder.module, FeatureSettings(pool="none"))
    labels = jnp.tile(jnp.asarray(split.labels), 2)
    params = {"encoder": encoder.params, "head": jnp.zeros((encoder.module.config.vision.width, len(names)))}
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 40, STEPS), weight_decay=0.1)

    @jax.jit
    def step(params, state, pixels, positions, labels):
        def loss(params):
            inputs = (pixels,) if positions is None else (pixels, positions)
            pooled = features._mean(encode(params["encoder"], *inputs), positions)
            return optax.softmax_cross_entropy_with_integer_labels(pooled @ params["head"], labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, order = optimizer.init(params), np.random.default_rng(0)
    for _ in range(STEPS):
        rows = order.integers(0, len(labels), BATCH)
        positions = None if arrays.positions is None else arrays.positions[rows]
        params, state = step(params, state, arrays.pixels[rows], positions, labels[rows])
    return dataclasses.replace(encoder, params=params["encoder"])


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["siglip", "siglip2_naflex"])
def test_a_trained_encoder_is_well_above_an_untrained_one(cifar, shared_data, tmp_path, kind):
    start = untrained(kind)
    after = trained(start, cifar)
    accuracy = {}
    for name, encoder in (("untrained", start), ("trained", after)):
        for method in ("logistic", "knn"):
            found = classify(encoder, cifar, settings=ProbeSettings(method), cache=tmp_path).result
            accuracy[name, method] = found
    for method in ("logistic", "knn"):
        before, found = (accuracy[name, method] for name in ("untrained", "trained"))
        print(kind, method, before.accuracy, found.accuracy)
        assert found.interval.low > before.interval.high + 0.03, method
    wide = {}
    settings = SegmentSettings(seeds=(0, 1), training=Training(epochs=20, batch_size=8, learning_rate=3e-3, hidden=128))
    for name, encoder in (("untrained", start), ("trained", after)):
        one = dataclasses.replace(untrained(kind, 300), params=encoder.params) if kind == "siglip2_naflex" else encoder
        wide[name] = segment(one, shared_data / "camvid_mini", CAMVID, settings=settings, ignore=11, cache=tmp_path)
    print(kind, "CamVid", wide["untrained"].miou, wide["trained"].miou, wide["trained"].recall)
    assert wide["trained"].miou > wide["untrained"].miou > 0
