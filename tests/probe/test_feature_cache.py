"""Features are computed once, and an entry is of one encoder, one preprocessing and one set of images."""

from __future__ import annotations

import dataclasses
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pivot_jax.errors import UserError
from pivot_jax.models.projector import ProjectorConfig
from pivot_jax.probe import feature_cache, features
from pivot_jax.probe.classification import ProbeSettings
from pivot_jax.probe.encoder_probes import classify, segment
from pivot_jax.probe.feature_settings import FeatureSettings
from pivot_jax.probe.heads import Training
from pivot_jax.probe.image_sets import CENTRAL_SQUARE, ImageSet
from pivot_jax.probe.segmentation import SegmentSettings
from tests.probe.conftest import tiny_encoder

SMALL = SegmentSettings(seeds=(0,), training=Training(epochs=2, hidden=8))


@pytest.fixture
def counted(monkeypatch):
    """Images that an encoder has read."""
    seen, extract = [], features.extract_on_grids

    def counting(encode, params, images, **settings):
        seen.append(len(images))
        return extract(encode, params, images, **settings)

    monkeypatch.setattr(features, "extract_on_grids", counting)
    return seen


@pytest.mark.parametrize("kind", ["siglip", "siglip2_naflex"])
@pytest.mark.heavy_after(1)
def test_every_probe_after_the_first_runs_no_encoder(coloured, tmp_path, counted, kind):
    encoder = tiny_encoder(kind)
    first = classify(encoder, coloured / "classes", cache=tmp_path)
    assert counted == [24, 9]  # train and the val taken from it are one set
    for method in ("logistic", "knn", "sgd", "prototypes"):
        found = classify(encoder, coloured / "classes", settings=ProbeSettings(method), cache=tmp_path, seed=3)
        assert found.images == {"train": 19, "val": 5, "test": 9}
    again = classify(encoder, coloured / "classes", cache=tmp_path)
    assert np.array_equal(again.result.predictions, first.result.predictions)
    fresh = classify(encoder, coloured / "classes")
    assert np.array_equal(fresh.result.predictions, first.result.predictions) and fresh.result.grid == first.result.grid
    assert counted == [24, 9, 24, 9]
    for _ in range(2):
        segment(encoder, coloured / "masks", "rgb", settings=SMALL, cache=tmp_path)
    assert counted[4:] == [24, 9]  # other images, per patch
    assert not list(tmp_path.rglob("*.partial*"))


def test_what_an_entry_depends_on(coloured, tmp_path, counted):
    paths = sorted((coloured / "classes" / "test").rglob("*.png"))
    encoder, vision = tiny_encoder("siglip"), FeatureSettings()
    read = lambda encoder=encoder, paths=paths, settings=vision, change=None: feature_cache.read_features(  # noqa: E731
        encoder, ImageSet(paths, encoder.geometry, change=change), settings, tmp_path / "cache", show=False
    )
    first = read()
    copies = [tmp_path / f"{i}.png" for i in range(len(paths))]
    for path, copy in zip(paths, copies, strict=True):
        shutil.copy(path, copy)
    config = encoder.module.config
    unscanned = dataclasses.replace(config, vision=dataclasses.replace(config.vision, remat="full"))
    same = dataclasses.replace(encoder, module=encoder.module.clone(config=unscanned), name="hf:other")
    later = {"vision": encoder.params["vision"] | {"final": encoder.params["vision"]["final"] | {"more": np.ones(2)}}}
    for other in (
        read(), read(paths=copies), read(paths=[path.read_bytes() for path in paths]), read(encoder=same),
        read(encoder=dataclasses.replace(encoder, params=later)),
    ):  # fmt: skip
        np.testing.assert_array_equal(other.values, first.values)
    assert len(counted) == 1
    Image.new("RGB", (9, 9)).save(copies[3])
    geometry = dataclasses.replace(encoder.geometry, preset="clip")
    changed = [
        read(paths=copies), read(paths=paths[::-1]), read(encoder=tiny_encoder("siglip", seed=1)),
        read(encoder=dataclasses.replace(encoder, geometry=geometry)), read(settings=FeatureSettings("vision", "all")),
        read(settings=FeatureSettings(pool="attention")), read(change=CENTRAL_SQUARE),
    ]  # fmt: skip
    assert len(counted) == 8
    assert not any(np.array_equal(other.values, first.values) for other in changed)
    assert not np.array_equal(changed[0].values[3], first.values[3])
    np.testing.assert_allclose(np.delete(changed[0].values, 3, 0), np.delete(first.values, 3, 0), atol=1e-6)


def test_projector_features_depend_on_the_projector_only_after_it(coloured, tmp_path, counted):
    encoder = tiny_encoder("siglip")
    config = dataclasses.replace(encoder.module.config, projector=ProjectorConfig(layers=1), width=6)
    images = ImageSet(sorted((coloured / "classes" / "test").rglob("*.png")), encoder.geometry)
    values = {}
    for seed in (0, 1):
        kernel = np.random.default_rng(seed).normal(size=(12, 6)).astype(np.float32)
        projector = {"fc1": {"kernel": kernel, "bias": jnp.zeros(6)}}
        one = dataclasses.replace(
            encoder, module=encoder.module.clone(config=config), params=encoder.params | {"projector": projector}
        )
        for where in ("vision", "projector"):
            found = feature_cache.read_features(one, images, FeatureSettings(where), tmp_path, show=False)
            values[seed, where] = found.values
        np.testing.assert_allclose(values[seed, "projector"], values[seed, "vision"] @ kernel, atol=1e-4)
    assert len(counted) == 3


def test_damaged_entries_are_made_again(coloured, tmp_path, counted, caplog):
    encoder = tiny_encoder("siglip2_naflex")
    images = ImageSet(sorted((coloured / "classes" / "test").rglob("*.png")), encoder.geometry)
    per_patch = FeatureSettings(pool="none")
    first = feature_cache.read_features(encoder, images, per_patch, tmp_path, show=False)
    whole, positions = np.array(first.values), first.positions
    (path,) = [path for path in tmp_path.glob("*.npy") if "positions" not in path.name]
    path.write_bytes(path.read_bytes()[:-100])
    again = feature_cache.read_features(encoder, images, per_patch, tmp_path, show=False)
    np.testing.assert_array_equal(again.values, whole)
    np.testing.assert_array_equal(again.positions, positions)
    assert counted == [9, 9] and "is damaged" in caplog.text
    np.testing.assert_array_equal(
        feature_cache.read_features(encoder, images, per_patch, tmp_path, show=False).positions, positions
    )


def test_an_image_that_cannot_be_read_leaves_no_entry(coloured, tmp_path):
    paths = sorted((coloured / "classes" / "test").rglob("*.png"))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    encoder = tiny_encoder("siglip")
    with pytest.raises(UserError, match="bad.png cannot be read"):
        images = ImageSet([*paths, bad], encoder.geometry)
        feature_cache.read_features(encoder, images, FeatureSettings(), tmp_path / "cache", show=False)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_file()]
