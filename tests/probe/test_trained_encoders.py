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
from pivot_jax.probe import class_sets, features, mask_sets, segmentation
from pivot_jax.probe.classification import ProbeSettings
from pivot_jax.probe.encoder_probes import classify, segment
from pivot_jax.probe.feature_settings import FeatureSettings, encode_of
from pivot_jax.probe.heads import Training
from pivot_jax.probe.image_sets import ImageSet
from pivot_jax.probe.segmentation import SegmentSettings
from pivot_jax.probe.splits import Labelled
from pivot_jax.train.open import OpenEncoder

CAMVID = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "Sign", "Fence", "Car", "Pedestrian", "Bicyclist")
CAMVID_IGNORE, BATCH = 11, 100


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


def trained(encoder: OpenEncoder, paths, labels, classes: int, steps: int) -> OpenEncoder:
    """Trained on images and their mirror images with a linear head.

    Args:
      labels: int [2 n], a class of each image; or [2 n, p], one of each patch, negative where there is none.
    """
    mirrored = [np.asarray(ImageOps.mirror(Image.open(path))) for path in paths]
    images = ImageSet([*paths, *mirrored], encoder.geometry)
    arrays = features._stacked([images[index] for index in range(len(images))])
    encode, _ = encode_of(encoder.module, FeatureSettings(pool="none"))
    params = {"encoder": encoder.params, "head": jnp.zeros((encoder.module.config.vision.width, classes))}
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 40, steps), weight_decay=0.1)

    @jax.jit
    def step(params, state, pixels, positions, labels):
        def loss(params):
            inputs = (pixels,) if positions is None else (pixels, positions)
            found = encode(params["encoder"], *inputs)
            found = features._mean(found, positions) if labels.ndim == 1 else found
            entropy = optax.softmax_cross_entropy_with_integer_labels(found @ params["head"], jnp.maximum(labels, 0))
            return jnp.where(labels >= 0, entropy, 0).sum() / (labels >= 0).sum()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, order, labels = optimizer.init(params), np.random.default_rng(0), jnp.asarray(labels)
    for _ in range(steps):
        rows = order.integers(0, len(labels), min(BATCH, len(paths) // 2))
        positions = None if arrays.positions is None else arrays.positions[rows]
        params, state = step(params, state, arrays.pixels[rows], positions, labels[rows])
    return dataclasses.replace(encoder, params=params["encoder"])


def trained_on_masks(encoder: OpenEncoder, folder, steps: int) -> OpenEncoder:
    """Trained to name the class of every patch of CamVid's training images."""
    split = mask_sets.segmentation(folder).splits["train"]
    masks = mask_sets.masks(split, encoder.geometry)
    masks += [mask[:, ::-1] for mask in masks]
    images = ImageSet(split.images, encoder.geometry)
    arrays = features._stacked([images[index] for index in range(len(images))])
    if arrays.positions is None:
        shape, positions = (len(masks), 64, 1), None
    else:
        shape, positions = (len(masks), arrays.positions.shape[1], 1), np.tile(arrays.positions, (2, 1, 1))
    part = Labelled(np.zeros(shape, np.float32), masks, positions)
    labels, _ = segmentation.patch_labels(part, len(CAMVID), CAMVID_IGNORE)
    return trained(encoder, split.images, labels, len(CAMVID), steps)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["siglip", "siglip2_naflex"])
def test_classes_of_a_trained_encoder(cifar, tmp_path, kind):
    """CIFAR-10: an encoder trained on its training images is well above an untrained one."""
    start = untrained(kind)
    found, names = class_sets.classification(cifar)
    split = found["train"].whole
    after = trained(start, split.images, np.tile(split.labels, 2), len(names), 1500)
    for method in ("logistic", "knn"):
        before, found = (
            classify(encoder, cifar, settings=ProbeSettings(method), cache=tmp_path).result
            for encoder in (start, after)
        )
        print(kind, method, before.accuracy, found.accuracy)
        assert found.interval.low > before.interval.high + 0.03, method


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["siglip", "siglip2_naflex"])
def test_segmentation_of_a_trained_encoder(shared_data, tmp_path, kind):
    """CamVid: an encoder trained on its training images is well above an untrained one."""
    folder = shared_data / "camvid_mini"
    start = untrained(kind, 300 if kind == "siglip2_naflex" else 64)
    after = trained_on_masks(start, folder, 400)
    settings = SegmentSettings(seeds=(0, 1), training=Training(epochs=20, batch_size=8, learning_rate=3e-3, hidden=128))
    before, found = (
        segment(encoder, folder, CAMVID, settings=settings, ignore=CAMVID_IGNORE, cache=tmp_path)
        for encoder in (start, after)
    )
    gain = segmentation.difference(found, before)
    print(kind, "CamVid mIoU", before.miou, found.miou, "gain", gain, "recall", before.recall, found.recall)
    assert gain.low > 0.03 and before.miou > 0
