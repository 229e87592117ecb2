"""Layouts of segmentation data: CamVid, ADE20K, VOC; masks follow their images through the geometry."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.processing.geometry import Square
from pivot_jax.data.processing.patches import Patches
from pivot_jax.errors import UserError
from pivot_jax.probe import mask_sets
from pivot_jax.probe.image_sets import CENTRAL_SQUARE
from tests.probe.conftest import image_file


def mask_file(path, array, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if mode == "P":
        image = Image.fromarray(array, mode="P")
        image.putpalette([value for colour in range(256) for value in (colour, 255 - colour, 7)])
    image.save(path)


def halves(height=4, width=6, left=0, right=7):
    array = np.full((height, width), left, np.uint8)
    array[:, width // 2 :] = right
    return array


def test_camvid_masks_keep_their_ids(tmp_path):
    for split in ("train", "val", "test"):
        image_file(tmp_path / split / "a.jpg")
        mask_file(tmp_path / f"{split}annot" / "a.png", halves())
    found = mask_sets.segmentation(tmp_path)
    assert found.classes == () and found.ignore is None
    (mask,) = mask_sets.masks(found.splits["test"], Square("siglip", 8, 4))
    assert mask.shape == (8, 8) and set(np.unique(mask)) == {0, 7} and (mask[:, 4:] == 7).all()


def test_masks_are_cropped_and_resized_as_their_images(tmp_path):
    """A mask that is its own image, through the image's way with nearest neighbours."""
    grey = np.random.default_rng(0).integers(0, 255, (30, 47), dtype=np.uint8)
    for split in ("train", "val", "test"):
        mask_file(tmp_path / split / "a.png", grey)
        mask_file(tmp_path / f"{split}annot" / "a.png", grey)
    images = mask_sets.segmentation(tmp_path).splits["test"]
    for geometry in (
        Square("siglip", 16, 16), Square("clip", 16, 16), Square("mae", 16, 16), Square("dinov2_224", 17, 16),
        Patches("siglip2_naflex", 4, 31, 0, 0), Patches("qwen2_5_vl", 4, 64, 0, 4096, 2),
    ):  # fmt: skip
        ramp = np.tile(np.arange(47, dtype=np.uint8) * 5, (30, 1))
        seen = np.asarray(geometry.resized(Image.fromarray(ramp).convert("RGB"), True))[..., 0].astype(int)
        mask = geometry.resized_mask(Image.fromarray(ramp)).astype(int)
        assert mask.shape == seen.shape and set(np.unique(mask)) <= set(np.unique(ramp))
        assert np.abs(mask - seen)[:, 1:-1].max() <= 5 + 5 * 47 / seen.shape[1]
        (own,) = mask_sets.masks(images, geometry)
        np.testing.assert_array_equal(own, geometry.resized_mask(Image.fromarray(grey)))
    (square,) = mask_sets.masks(images, Patches("siglip2_naflex", 5, 36, 0, 0), CENTRAL_SQUARE)
    np.testing.assert_array_equal(square, grey[:, 8:38])


def test_ade20k(tmp_path, shared_data):
    folder = shared_data / "ade20k_sample"
    for split, names in (("training", "12"), ("validation", "3")):
        for kind, suffix in (("images", "jpg"), ("annotations", "png")):
            (tmp_path / kind / split).mkdir(parents=True)
            for name in names:
                file = f"ADE_val_0000000{name}.{suffix}"
                shutil.copy(folder / kind / file, tmp_path / kind / split / file)
    shutil.copy(folder / "objectInfo150.txt", tmp_path)
    found = mask_sets.segmentation(tmp_path)
    assert len(found.classes) == 151 and found.classes[:3] == ("other", "wall", "building")
    assert found.ignore is None and [len(found.splits[s]) for s in ("train", "val", "test")] == [1, 1, 1]
    for geometry in (Square("siglip", 64, 64), Patches("siglip2_naflex", 16, 64, 0, 0)):
        (mask,) = mask_sets.masks(found.splits["test"], geometry)
        assert mask.max() <= 150 and len(np.unique(mask)) > 2


def test_voc_has_palettes_and_an_unlabelled_border(tmp_path):
    ids = halves(left=15, right=255)
    for name in ("2007_1", "2007_2", "2007_3"):
        image_file(tmp_path / "JPEGImages" / f"{name}.jpg")
        mask_file(tmp_path / "SegmentationClass" / f"{name}.png", ids, "P")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\n2007_2\n")
    (lists / "val.txt").write_text("2007_3\n")
    found = mask_sets.segmentation(tmp_path)
    assert found.classes[15] == "person" and len(found.classes) == 21 and found.ignore == 255
    assert found.splits["test"].images[0].stem == "2007_3"
    (mask,) = mask_sets.masks(found.splits["test"], Square("siglip", 8, 4))
    assert set(np.unique(mask)) == {15, 255}
    (lists / "val.txt").write_text("2007_9\n")
    with pytest.raises(UserError, match="val.txt: no image for 1 name, such as .*2007_9.jpg"):
        mask_sets.segmentation(tmp_path)


def test_bad_folders(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="no images"):
        mask_sets.segmentation(tmp_path)
    image_file(tmp_path / "train" / "x.png")
    with pytest.raises(UserError, match="no mask for 1 image, such as .*trainannot/x.png"):
        mask_sets.segmentation(tmp_path)
    with pytest.raises(UserError, match="no folder '.*train'; the data need"):
        mask_sets.segmentation(tmp_path / "none")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: image_file(path, mode="RGB"), "its mode is RGB"),
        (lambda path: path.write_bytes(b"no image"), "cannot identify image"),
        (lambda path: mask_file(path, halves(4, 8)), "it has 8x4 pixels and its image 6x4"),
    ],
    ids=["colours", "text", "size"],
)
def test_bad_masks_are_named(tmp_path, make, says):
    for split in ("train", "test"):
        for name in ("a", "b"):
            image_file(tmp_path / split / f"{name}.png")
            mask_file(tmp_path / f"{split}annot" / f"{name}.png", halves())
    make(tmp_path / "testannot" / "b.png")
    with pytest.raises(UserError, match=f"mask .*testannot/b.png cannot be read .*{says}"):
        mask_sets.masks(mask_sets.segmentation(tmp_path).splits["test"], Square("siglip", 8, 4))
