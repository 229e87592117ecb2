"""The numbers that score a map against an object, and where the encoder sees that object."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.processing.geometry import Square
from pivot_jax.errors import UserError
from pivot_jax.probe import localisation


def test_localisation_of_perfect_even_and_wrong_maps():
    mask = np.zeros((16, 16), bool)
    mask[4:8, 8:12] = True  # exactly patch (1, 2) of 4 x 4
    point = np.zeros((4, 4), np.float32)
    point[1, 2] = 3.0
    perfect = localisation.localise(point, mask)
    assert (perfect.hit, perfect.energy, perfect.entropy) == (True, 1.0, 0.0)
    assert perfect.area == 1 / 16 and perfect.lift == 16
    even = localisation.localise(np.ones((4, 4), np.float32), mask)
    assert (
        even.energy == pytest.approx(even.area) and even.entropy == pytest.approx(1.0) and even.lift == pytest.approx(1)
    )
    wrong = localisation.localise(np.roll(point, 1, 0), mask)
    assert not wrong.hit and wrong.energy == 0
    nothing = localisation.localise(np.zeros((4, 4), np.float32), mask)
    assert nothing.energy == pytest.approx(1 / 16)


def test_small_objects_and_partial_cover():
    mask = np.zeros((16, 16), bool)
    mask[5, 9] = True  # one pixel of patch (1, 2)
    point = np.zeros((4, 4), np.float32)
    point[1, 2] = 1
    found = localisation.localise(point, mask)
    assert found.hit and found.energy == pytest.approx(1 / 16)
    half = np.zeros((16, 16), bool)
    half[4:8, 8:14] = True  # patch (1, 2) whole, half of (1, 3)
    assert localisation.localise(np.roll(point, 1, 1), half).hit
    assert localisation.patch_cover(np.ones((384, 384), bool), (27, 27)).shape == (27, 27)


def test_a_flat_map_points_nowhere():
    mask = np.zeros((16, 16), bool)
    mask[:4, :4] = True  # the first patch, which argmax of a flat map is
    assert not localisation.localise(np.zeros((4, 4), np.float32), mask).hit
    assert not localisation.localise(np.full((4, 4), 2.0, np.float32), mask).hit


def test_best_iou_is_the_best_over_thresholds_of_the_pixels():
    rng = np.random.default_rng(0)
    for trial in range(20):
        grid = rng.integers(0, 5, (4, 6)).astype(np.float32)  # with ties
        mask = rng.random((12, 18)) < (0.1, 0.5)[trial % 2]
        pixels = np.kron(grid, np.ones((3, 3)))
        every = [(mask & (pixels >= t)).sum() / (mask | (pixels >= t)).sum() for t in np.unique(grid)]
        found = localisation.localise(grid, mask)
        assert found.iou == pytest.approx(max(every), abs=1e-12) and found.iou >= found.area - 1e-12
        share = grid.reshape(-1) / grid.sum()
        assert found.entropy == pytest.approx(sum(-q * np.log(q) for q in share if q) / np.log(24), abs=1e-6)


def test_object_where_the_encoder_sees_it(tmp_path):
    """Squashed with the image, or cropped with it; boxes and masks agree."""
    image = np.zeros((20, 40, 3), np.uint8)
    mask = np.zeros((20, 40), np.uint8)
    mask[4:12, 20:30] = 1  # not 255: anything but black
    Image.fromarray(mask).save(tmp_path / "mask.png")
    squash, crop = Square("siglip", 20, 4), Square("clip", 20, 4)
    for geometry, columns in ((squash, slice(10, 15)), (crop, slice(10, 20))):
        expected = np.zeros((20, 20), bool)
        expected[4:12, columns] = True
        seen = localisation.object_mask(geometry, image, mask=str(tmp_path / "mask.png"))
        np.testing.assert_array_equal(seen, expected)
        boxed = localisation.object_mask(geometry, image, boxes=[(20, 4, 25, 12), (25, 4, 30, 12)])
        np.testing.assert_array_equal(boxed, expected)
    with pytest.raises(UserError, match="nothing of the object is in the part"):
        localisation.object_mask(crop, image, boxes=[(0, 0, 9, 20)])
    with pytest.raises(UserError, match="box 0,0,41,20: not in the image of 40x20 pixels"):
        localisation.object_mask(squash, image, boxes=[(0, 0, 41, 20)])
    with pytest.raises(UserError, match="mask: 40x20 pixels, and its image has 20x40"):
        localisation.object_mask(squash, image.swapaxes(0, 1), mask=str(tmp_path / "mask.png"))


def test_bad_input():
    with pytest.raises(ValueError, match="mask is empty"):
        localisation.localise(np.ones((2, 2), np.float32), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="no negative values"):
        localisation.localise(-np.ones((2, 2), np.float32), np.ones((4, 4)))
    with pytest.raises(ValueError, match="resize it"):
        localisation.localise(np.ones((4, 4), np.float32), np.ones((3, 3)))
