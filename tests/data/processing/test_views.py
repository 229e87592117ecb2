"""What an encoder sees of an image, put together again from its arrays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.processing.geometry import Square
from pivot_jax.data.processing.patches import Patches
from pivot_jax.data.processing.tiles import Tiles, tiles

SIZES = ((40, 40), (97, 31), (33, 120))  # height, width


def random_image(height, width):
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.mark.parametrize(("features", "cell"), [(16, 8), (7, 0)])
def test_a_square_is_its_array(features, cell):
    geometry, image = Square("clip", 32, features), random_image(33, 120)
    (view,) = geometry.views(geometry.convert(image), 33, 120)
    assert np.array_equal(view.pixels, np.asarray(geometry.resized(image))) and (view.cell, view.tile) == (cell, 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("preset", "cell"), [("qwen2_vl", 8), ("qwen2_5_vl", 8), ("siglip2_naflex", 4)])
def test_patches_become_the_resized_image(preset, cell, size):
    """Whatever their order: windows, merged patches."""
    geometry = Patches(preset, 4, 400, 64, 6400, window=4)
    image = random_image(*size)
    (view,) = geometry.views(geometry.convert(image), *size)
    assert np.array_equal(view.pixels, np.asarray(geometry.resized(image))) and view.cell == cell
    rows, columns = geometry.token_grid(image)
    assert view.pixels.shape == (rows * cell, columns * cell, 3)


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_beside_each_other(size):
    geometry, image = Tiles("siglip", 16, 4, 7), random_image(*size)
    overview, whole = geometry.views(geometry.convert(image), *size)
    expected = tiles(image, 16, 7, Image.Resampling.BICUBIC)
    assert np.array_equal(overview.pixels, expected[0]) and overview.cell == whole.cell == 4
    rows, columns = (side // whole.tile for side in whole.pixels.shape[:2])
    assert whole.tile == 16 and rows * columns == len(expected) - 1
    for number, tile in enumerate(expected[1:]):
        y, x = divmod(number, columns)
        assert np.array_equal(whole.pixels[16 * y : 16 * y + 16, 16 * x : 16 * x + 16], tile)
