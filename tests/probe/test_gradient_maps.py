"""Shape, border replacement, gamma; Grad-CAM and rollout by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.probe import gradient_maps


def test_map_of_576_tokens_is_a_grid_of_24_by_24():
    weights = np.random.default_rng(0).normal(size=(2, 576, 8)).astype(np.float32)
    grids = gradient_maps.on_grid(gradient_maps.sizes(weights))
    assert grids.shape == (2, 24, 24)
    np.testing.assert_allclose(grids[1, 3, 5], np.abs(weights[1, 3 * 24 + 5]).sum(), rtol=1e-6)
    roots = gradient_maps.sizes(weights, "l2")
    np.testing.assert_allclose(roots, np.sqrt((weights**2).sum(2)), rtol=1e-6)


def test_border_replacement_touches_only_the_border():
    grid = np.random.default_rng(1).random((24, 24)).astype(np.float32)
    out = gradient_maps.replace_border(grid, seed=4)
    assert np.array_equal(out[1:-1, 1:-1], grid[1:-1, 1:-1])
    assert any(np.array_equal(out[0, 1:-1], grid[row, 1:-1]) for row in (1, 2))
    assert any(np.array_equal(out[-1, 1:-1], grid[row, 1:-1]) for row in (-2, -3))
    assert any(np.array_equal(out[1:-1, 0], grid[1:-1, column]) for column in (1, 2))
    assert any(np.array_equal(out[1:-1, -1], grid[1:-1, column]) for column in (-2, -3))
    assert np.array_equal(out, gradient_maps.replace_border(grid, seed=4))
    assert np.array_equal(gradient_maps.replace_border(grid[:7]), grid[:7])  # of which the border is most
    assert {gradient_maps.replace_border(grid, seed=s)[0, 5] for s in range(20)} == {grid[1, 5], grid[2, 5]}


def test_maps_are_scaled_by_min_max_and_gamma():
    grid = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)
    out = gradient_maps.normalised(grid)
    np.testing.assert_allclose(out, [[0, 0.25**1.1], [0.5**1.1, 1]], rtol=1e-6)
    assert (gradient_maps.normalised(np.full((3, 3), 7.0)) == 0).all()


def test_scale_of_the_loss_does_not_change_the_image():
    # This is why the published contrast of the chosen branch with SFT shows nothing: normalisation removes the factor.
    image = np.random.default_rng(2).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    one = np.abs(np.random.default_rng(3).normal(size=(6, 6))).astype(np.float32)
    assert np.abs(gradient_maps.overlay(image, one).astype(int) - gradient_maps.overlay(image, 0.037 * one)).max() <= 1


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


def test_relevance_by_hand():
    held = np.array([[[1.0, 2.0], [3.0, -1.0], [0.0, 1.0], [2.0, 2.0]]])
    pulls = np.array([[[1.0, -4.0], [3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])  # means 1 and -1
    np.testing.assert_allclose(gradient_maps.grad_cam(held, pulls), [[0, 4, 0, 0]])
    weights = np.array([[[[0.2, 0.8], [0.6, 0.4]]], [[[0.0, 1.0], [1.0, 0.0]]]])  # two blocks, two patches
    first = [[0.6, 0.4], [0.3, 0.7]]
    second = [[0.45, 0.55], [0.45, 0.55]]
    found = gradient_maps.rollout(weights, 0, class_token=False)
    np.testing.assert_allclose(found[:, 0], [np.mean(first, 0), np.mean(second, 0)], atol=1e-7)
    np.testing.assert_allclose(gradient_maps.rollout(weights, 1, class_token=True)[:, 0, 0], [0.4, 0.55], atol=1e-7)
    real = np.array([[True, False]])
    np.testing.assert_allclose(gradient_maps.rollout(weights, 0, class_token=False, real=real)[0, 0], [0.6, 0.4])


def test_patches_of_a_variable_resolution_image_are_where_it_has_them():
    positions = np.array([[[[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [-1, -1]]]])
    values = np.arange(7, dtype=np.float32)[None]
    np.testing.assert_array_equal(gradient_maps.on_grid(values, positions), [[[0, 1, 2], [3, 4, 5]]])
    assert gradient_maps.on_grid(np.stack([values, values]), positions).shape == (2, 1, 2, 3)
    other = np.concatenate([positions, positions[..., ::-1]])
    with pytest.raises(ValueError, match="images of one grid in a batch"):
        gradient_maps.on_grid(np.concatenate([values, values]), other)


def test_bad_input():
    with pytest.raises(ValueError, match="square number of patches, got 5"):
        gradient_maps.on_grid(np.ones((1, 5)))
    for name, allowed in gradient_maps.ALLOWED.items():
        with pytest.raises(ValueError, match=f"{name} 'max' is unknown; choose one of {allowed[0]}"):
            gradient_maps.MapSettings(**{name: "max"})
