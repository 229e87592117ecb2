"""Changes of images do what they say, for every image in the same way."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.processing.corruptions import GREY, LEVELS, Corruption
from pivot_jax.errors import UserError

PHOTO = np.random.default_rng(0).integers(60, 196, (40, 60, 3), dtype=np.uint8)


def changed(kind, level, seed=0, image=PHOTO):
    out = Corruption(kind, level, seed)(Image.fromarray(image))
    assert out.size == (image.shape[1], image.shape[0]) and out.mode == "RGB"
    return np.asarray(out).astype(float)


def test_each_change_is_of_its_level():
    assert np.std(changed("noise", 0.05) - PHOTO) == pytest.approx(255 * 0.05, rel=0.05)
    assert changed("blur", 0.04).std() < 0.5 * changed("blur", 0.01).std() < PHOTO.std()
    for level in (0.1, 0.25, 0.5):
        grey = (changed("occlusion", level) == GREY).all(axis=-1)
        rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
        assert grey[np.ix_(rows, columns)].all() and grey.mean() == pytest.approx(level, abs=0.02)
        np.testing.assert_array_equal(changed("occlusion", level)[~grey], PHOTO[~grey])
    moved = {changed("shift", 0.1, seed).tobytes() for seed in range(20)}
    corners = {(down, right) for down in (4, -4) for right in (6, -6)}
    expected = set()
    for down, right in corners:
        canvas = np.full(PHOTO.shape, 128.0)
        part = PHOTO[max(0, -down) : 40 - max(0, down), max(0, -right) : 60 - max(0, right)]
        canvas[max(0, down) : 40 - max(0, -down), max(0, right) : 60 - max(0, -right)] = part
        expected.add(canvas.tobytes())
    assert moved == expected
    grid = np.add.outer(np.arange(40), 100 * np.arange(60) / 60)[..., None].repeat(3, 2).astype(np.uint8)
    cropped = changed("crop", 0.75, image=grid)  # half of each side is left, so values change half as fast
    slope = np.diff(cropped[5:-5, :, 0], axis=0)
    assert slope.mean() == pytest.approx(0.5, abs=0.05)
    for kind in LEVELS:
        np.testing.assert_array_equal(changed(kind, 0.0), PHOTO)


def test_a_change_follows_from_the_image_and_the_seed():
    other = PHOTO.copy()
    other[0, 0] += 1
    for kind in ("noise", "occlusion"):
        np.testing.assert_array_equal(changed(kind, 0.1), changed(kind, 0.1))
        assert not np.array_equal(changed(kind, 0.1), changed(kind, 0.1, seed=1))
        assert not np.array_equal(changed(kind, 0.1)[1:], changed(kind, 0.1, image=other)[1:])
    with pytest.raises(UserError, match="corruption 'fog' is unknown; choose one of noise, blur, occlusion, shift"):
        Corruption("fog", 0.1)
    with pytest.raises(UserError, match="level 2 is not a share"):
        Corruption("blur", 2)
