"""Depth and correspondence of patches: exact where the features say so, chance where they say nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from pivot_jax.cli import main as cli
from pivot_jax.errors import UserError
from pivot_jax.probe import scene_geometry
from pivot_jax.probe.feature_settings import FeatureSettings
from pivot_jax.probe.scene_geometry import correspondence, depth, scene_views
from tests.probe.conftest import tiny_encoder

SIZES = {"train": 40, "val": 10, "test": 20}


@pytest.fixture(scope="module")
def views():
    return scene_views(48, 0, SIZES)


def features(monkeypatch, of_image):
    """Replaces the encoder by a function of (kind of map, index) on a grid of 6 x 6."""

    def read(encoder, images, settings, **_):
        return SimpleNamespace(values=np.stack([of_image(image) for image in images.references]), positions=None)

    class Set:
        def __init__(self, references, geometry):
            self.references = references

    monkeypatch.setattr(scene_geometry, "read_features", read)
    monkeypatch.setattr(scene_geometry, "ImageSet", Set)
    return SimpleNamespace(geometry=None)


def grid(image):
    return np.asarray([block.mean() for row in np.array_split(image, 6, 0) for block in np.array_split(row, 6, 1)])


def test_features_that_tell_the_distance_give_it(views, monkeypatch):
    # The image that the "encoder" sees is the map of distances itself.
    maps = {name: SimpleNamespace(images=one.distances, instances=one.instances, distances=one.distances)
            for name, one in views.items()}  # fmt: skip
    encoder = features(monkeypatch, lambda image: np.log(grid(image))[:, None])
    found = depth(encoder, maps)
    assert found.within.value > 0.999 and found.things.value > 0.999 and found.error.value < 0.01
    # The plane's distance follows from the row; that of things does not.
    assert 0.4 < found.position_within < 0.95 and found.position_things < found.position_within
    assert found.items.shape == (SIZES["test"],)


def test_features_that_name_the_thing_are_matched(views, monkeypatch):
    one = views["test"]
    maps = SimpleNamespace(images=one.instances, instances=one.instances, distances=one.distances)

    def things(image):  # one-hot of the thing that covers the patch
        blocks = [block for row in np.array_split(image, 6, 0) for block in np.array_split(row, 6, 1)]
        return np.stack([np.bincount(block.ravel(), minlength=7)[:7].astype(float) ** 4 for block in blocks])

    found = correspondence(features(monkeypatch, things), maps)
    assert found.value.value > 0.97 and found.value.value > found.chance > found.same_place


def test_noise_is_matched_by_chance(views, monkeypatch):
    rng = np.random.default_rng(0)
    found = correspondence(features(monkeypatch, lambda image: rng.normal(size=(36, 8))), views["test"])
    assert found.value.low < found.chance < found.value.high


@pytest.mark.parametrize("kind", ["siglip", "siglip2_naflex"])
def test_an_encoder_of_squares_and_one_of_patches_take_one_path(kind):
    encoder = tiny_encoder(kind)
    views = scene_views(16, 0, {"train": 12, "val": 4, "test": 6})
    found, match = depth(encoder, views), correspondence(encoder, views["test"])
    assert 0 <= found.within.value <= 1 and np.isfinite(found.error.value) and 0 <= match.value.value <= 1
    with pytest.raises(UserError, match="pool mean: depth and correspondence are of patches"):
        depth(encoder, views, FeatureSettings())


def test_the_command(trained, tmp_path, capsys):
    argv = ["probe", "geometry", "--encoder", f"run:{trained}", "--images", "6", "--out", str(tmp_path / "out.json")]
    assert cli.main(argv) == 1  # four patches in an image
    assert "no patch is covered by a thing" in capsys.readouterr().err
    tiny_encoder("siglip").export(tmp_path / "tiny")
    argv[argv.index("--encoder") + 1] = f"hf:{tmp_path / 'tiny'}"
    assert cli.main(argv) == 0
    assert "most similar patch is on the same thing" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "out.json").read_text())) >= {"scores", "chance", "penalty", "encoder"}
