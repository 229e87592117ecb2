"""Pairs of views: what is nearer is larger, hides what is behind it, and moves more."""

from __future__ import annotations

import numpy as np

from pivot_jax.data.scenes.views import FAR, NEAREST, STEP, draw_views


def test_a_pair_depends_on_the_seed_and_its_number():
    first, more = draw_views(3, 48, 0), draw_views(5, 48, 0)
    for name in ("images", "instances", "distances"):
        np.testing.assert_array_equal(getattr(first, name), getattr(more, name)[:3])
    assert not np.array_equal(draw_views(3, 48, 1).images, first.images)
    assert first.images.dtype == np.uint8 and first.images.shape == (3, 2, 48, 48, 3)


def test_distances_are_those_of_the_plane_and_of_the_foremost_thing():
    views = draw_views(20, 64, 0)
    for instances, distances in zip(
        views.instances.reshape(-1, 64, 64), views.distances.reshape(-1, 64, 64), strict=True
    ):
        ground = np.where(instances == 0, distances, np.nan)
        rows = np.nanmean(ground, 1)
        assert np.all(np.diff(rows[np.isfinite(rows)]) <= 1e-6) and np.nanmax(ground) == FAR
        for thing in np.unique(instances[instances > 0]):
            (distance,) = np.unique(distances[instances == thing])  # one distance for a whole thing
            assert NEAREST <= distance <= FAR


def test_nearer_things_are_larger_and_move_more():
    views, moved = draw_views(40, 96, 0), []
    for instances, distances in zip(views.instances, views.distances, strict=True):
        for thing in np.unique(instances[instances > 0]):
            seen = [np.argwhere(view == thing) for view in instances]
            inside = all(len(pixels) and pixels[:, 1].min() > 0 and pixels[:, 1].max() < 95 for pixels in seen)
            if inside and len(seen[0]) == len(seen[1]):
                shift = seen[1][:, 1].mean() - seen[0][:, 1].mean()
                moved.append((distances[0][instances[0] == thing][0], shift, len(seen[0])))
    distance, shift, pixels = map(np.asarray, zip(*moved, strict=True))
    assert len(distance) > 20
    np.testing.assert_allclose(shift, STEP * 96 / distance, atol=1.1)  # places are whole pixels
    assert np.corrcoef(1 / distance**2, pixels)[0, 1] > 0.7
