"""Measurements of finished runs that no shipped small study takes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from pivot_jax.errors import UserError
from pivot_jax.study.measures import KINDS, Task
from pivot_jax.train.extract import extract
from pivot_jax.train.run import run
from tests.train.conftest import COLOURS, make_config, world  # noqa: F401  (fixtures)

SPLITS = {"train": 12, "val": 6, "test": 9}


@pytest.fixture(scope="module")
def finished(make_config, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("measures") / "run"
    run(make_config(train__steps=1, seed=3), folder)
    extract(folder, folder / "pack")
    return folder


def test_classes_that_a_random_encoder_tells_apart(finished, tmp_path):
    """Plain colors: a linear probe of any encoder reads them, before and after the projector."""
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for i in range(count):
            name = list(COLOURS)[i % 3]
            pixels = np.clip(np.asarray(COLOURS[name]) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    found = KINDS["class_probe"](Task(finished, "probe", {"path": str(tmp_path)}))
    for title in ("class, encoder", "class, projector"):
        right = found.items[title]
        assert right.shape == (9,) and right.dtype == bool and right.mean() == found.numbers[title]["accuracy"] >= 8 / 9
    shutil.rmtree(tmp_path / "test" / "red")
    Image.new("RGB", (16, 16)).save(tmp_path / "test" / "green" / "black.png")
    assert KINDS["class_probe"](Task(finished, "probe", {"path": str(tmp_path)})).items["class, encoder"].shape == (7,)
    with pytest.raises(UserError, match="no folder"):
        KINDS["class_probe"](Task(finished, "probe", {"path": str(tmp_path / "test")}))
