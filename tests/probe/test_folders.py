"""Labelled folders: splits, a validation part set aside, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.processing.geometry import Square
from pivot_jax.errors import UserError
from pivot_jax.probe import folders


def image_file(path, colour=(255, 0, 0), mode="RGB", size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def classes(tmp_path):
    for split, count in (("train", 10), ("test", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                image_file(tmp_path / split / name / f"{i:02}.png")
    return tmp_path


def test_val_is_set_aside_from_train(classes):
    splits, names = folders.classification(classes)
    assert names == ("cat", "dog")
    assert [len(splits[s]) for s in ("train", "val", "test")] == [16, 4, 4]
    assert not set(splits["train"].images) & set(splits["val"].images)
    assert all(
        path.parent.name == names[label]
        for s in splits.values()
        for path, label in zip(s.images, s.labels, strict=True)
    )
    assert folders.classification(classes)[0] == splits and folders.classification(classes, seed=1)[0] != splits


def test_images_are_preprocessed(classes):
    splits, _ = folders.classification(classes)
    seen = folders.ImageFiles(splits["test"].images, Square("siglip", 8, 4))
    assert len(seen) == 4 and seen[0].shape == (8, 8, 3) and tuple(seen[0][0, 0]) == (255, 0, 0)


def test_masks_keep_their_ids(tmp_path):
    for split in ("train", "val", "test"):
        image_file(tmp_path / split / "a.jpg")
        array = np.zeros((4, 6), np.uint8)
        array[:, 3:] = 7
        (tmp_path / f"{split}annot").mkdir()
        Image.fromarray(array).save(tmp_path / f"{split}annot" / "a.png")
    splits = folders.segmentation(tmp_path)
    found = folders.masks(splits["test"].labels, 8)
    assert found.shape == (1, 8, 8) and set(np.unique(found)) == {0, 7} and (found[0, :, 4:] == 7).all()


def test_bad_folders(classes, tmp_path):
    with pytest.raises(UserError, match="no folder '.*train'"):
        folders.classification(tmp_path / "none")
    image_file(classes / "test" / "cow" / "0.png")
    with pytest.raises(UserError, match="class 'cow' is not in"):
        folders.classification(classes)
    with pytest.raises(UserError, match="no images"):
        folders.segmentation(classes)
    image_file(classes / "train" / "x.png")
    with pytest.raises(UserError, match="no mask for 1 image, such as .*trainannot/x.png"):
        folders.segmentation(classes)
