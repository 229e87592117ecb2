"""Shape, border replacement, gamma; and the numbers that score a map against an object."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.probe import gradient_maps


def test_map_of_576_tokens_is_a_grid_of_24_by_24():
    weights = np.random.default_rng(0).normal(size=(576, 8)).astype(np.float32)
    ones = np.ones((2, 576, 8), np.float32)
    grids = gradient_maps.gradient_maps(lambda a: (a[0] * weights).sum() - 2 * (a[1] * weights).sum(), ones)
    assert grids.shape == (2, 24, 24)
    np.testing.assert_allclose(grids[0].reshape(-1), np.abs(weights).sum(1), rtol=1e-6)
    np.testing.assert_allclose(grids[1], 2 * grids[0], rtol=1e-6)
    (root,) = gradient_maps.gradient_maps(lambda a: (a * weights).sum(), ones[:1], norm="l2")
    np.testing.assert_allclose(root.reshape(-1), np.linalg.norm(weights, axis=1), rtol=1e-6)


def test_border_replacement_touches_only_the_border():
    grid = np.random.default_rng(1).random((24, 24)).astype(np.float32)
    out = gradient_maps.replace_border(grid, seed=4)
    assert np.array_equal(out[1:-1, 1:-1], grid[1:-1, 1:-1])
    assert any(np.array_equal(out[0, 1:-1], grid[row, 1:-1]) for row in (1, 2))
    assert any(np.array_equal(out[-1, 1:-1], grid[row, 1:-1]) for row in (-2, -3))
    assert any(np.array_equal(out[1:-1, 0], grid[1:-1, column]) for column in (1, 2))
    assert any(np.array_equal(out[1:-1, -1], grid[1:-1, column]) for column in (-2, -3))
    assert np.array_equal(out, gradient_maps.replace_border(grid, seed=4))
    assert {gradient_maps.replace_border(grid, seed=s)[0, 5] for s in range(20)} == {grid[1, 5], grid[2, 5]}


def test_maps_are_scaled_by_min_max_and_gamma():
    grid = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)
    out = gradient_maps.normalised(grid)
    np.testing.assert_allclose(out, [[0, 0.25**1.1], [0.5**1.1, 1]], rtol=1e-6)
    assert (gradient_maps.normalised(np.full((3, 3), 7.0)) == 0).all()


def test_scale_of_the_loss_does_not_change_the_image():
    # This is why the published contrast of the chosen branch with SFT shows nothing: normalisation removes the factor.
    image = np.random.default_rng(2).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(36, 5)), jnp.float32)
    ones = np.ones((1, 36, 5), np.float32)
    (one,) = gradient_maps.gradient_maps(lambda a: (jnp.tanh(a) * weights).sum(), ones)
    (two,) = gradient_maps.gradient_maps(lambda a: 0.037 * (jnp.tanh(a) * weights).sum(), ones)
    np.testing.assert_allclose(gradient_maps.normalised(one), gradient_maps.normalised(two), atol=1e-5)
    assert np.abs(gradient_maps.overlay(image, one).astype(int) - gradient_maps.overlay(image, two)).max() <= 1


def test_overlay_is_jet_over_the_darkened_image():
    image = np.full((40, 40, 3), 200, np.uint8)
    grid = np.zeros((10, 10), np.float32)
    grid[4:6, 4:6] = 1
    out = gradient_maps.overlay(image, grid)
    assert out.shape == image.shape and out.dtype == np.uint8
    cold = 0.6 * np.array([0, 0, 127.5]) + 0.4 * 0.7 * 200
    np.testing.assert_allclose(out[0, 0], cold, atol=1)
    assert out[20, 20, 0] > out[20, 20, 2]  # the middle is red
    whole = gradient_maps.overlay(image, np.ones((3, 3), np.float32))  # a small, constant map is fine too
    np.testing.assert_allclose(whole[5, 5], cold, atol=1)


def test_localisation_of_perfect_even_and_wrong_maps():
    mask = np.zeros((16, 16), bool)
    mask[4:8, 8:12] = True  # exactly patch (1, 2) of 4 x 4
    point = np.zeros((4, 4), np.float32)
    point[1, 2] = 3.0
    perfect = gradient_maps.localise(point, mask)
    assert (perfect.hit, perfect.energy, perfect.entropy) == (True, 1.0, 0.0)
    assert perfect.area == 1 / 16 and perfect.lift == 16
    even = gradient_maps.localise(np.ones((4, 4), np.float32), mask)
    assert (
        even.energy == pytest.approx(even.area) and even.entropy == pytest.approx(1.0) and even.lift == pytest.approx(1)
    )
    wrong = gradient_maps.localise(np.roll(point, 1, 0), mask)
    assert not wrong.hit and wrong.energy == 0
    nothing = gradient_maps.localise(np.zeros((4, 4), np.float32), mask)
    assert nothing.energy == pytest.approx(1 / 16)


def test_small_objects_and_partial_cover():
    mask = np.zeros((16, 16), bool)
    mask[5, 9] = True  # one pixel of patch (1, 2)
    point = np.zeros((4, 4), np.float32)
    point[1, 2] = 1
    found = gradient_maps.localise(point, mask)
    assert found.hit and found.energy == pytest.approx(1 / 16)
    half = np.zeros((16, 16), bool)
    half[4:8, 8:14] = True  # patch (1, 2) whole, half of (1, 3)
    assert gradient_maps.localise(np.roll(point, 1, 1), half).hit
    assert gradient_maps.patch_cover(np.ones((384, 384), bool), (27, 27)).shape == (27, 27)


def test_bad_input():
    with pytest.raises(ValueError, match="mask is empty"):
        gradient_maps.localise(np.ones((2, 2), np.float32), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="square number"):
        gradient_maps.token_map(np.ones((5, 3)))
    with pytest.raises(ValueError, match="norm 'max'"):
        gradient_maps.token_map(np.ones((4, 3)), norm="max")
    with pytest.raises(ValueError, match="resize it"):
        gradient_maps.localise(np.ones((4, 4), np.float32), np.ones((3, 3)))
