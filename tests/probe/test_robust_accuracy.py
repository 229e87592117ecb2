"""Changes of images do what they say, and a probe of clean images is scored under them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pivot_jax.cli import main as cli
from pivot_jax.errors import UserError
from pivot_jax.probe.classification import ProbeSettings
from pivot_jax.probe.corruptions import GREY, LEVELS, corruption
from pivot_jax.probe.encoder_probes import classify
from pivot_jax.probe.robust_accuracy import robustness
from tests.probe.conftest import tiny_encoder

PHOTO = np.random.default_rng(0).integers(60, 196, (40, 60, 3), dtype=np.uint8)


def changed(kind, level, seed=0, image=PHOTO):
    out = corruption(kind, level, seed).apply(Image.fromarray(image))
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
        corruption("fog", 0.1)
    with pytest.raises(UserError, match="level 2 is not a share"):
        corruption("blur", 2)


@pytest.mark.parametrize("kind", ["siglip", "siglip2_naflex"])
def test_a_probe_of_clean_images_is_scored_on_changed_ones(coloured, tmp_path, kind):
    encoder, data = tiny_encoder(kind), coloured / "classes"
    levels = {"noise": (0.0, 0.9), "blur": (0.04,)}
    found = robustness(encoder, data, levels=levels, cache=tmp_path)
    clean = classify(encoder, data, cache=tmp_path).result
    assert found.clean.value == clean.accuracy and found.chosen == clean.chosen and found.flags == clean.flags
    np.testing.assert_array_equal(found.correct["clean", 0.0], clean.correct)
    assert list(found.changed) == [("noise", 0.0), ("noise", 0.9), ("blur", 0.04)]
    assert found.drops["noise", 0.0].low == found.drops["noise", 0.0].high == 0
    assert found.drops["noise", 0.9].value == pytest.approx(found.changed["noise", 0.9].value - clean.accuracy)
    assert found.changed["blur", 0.04].value > found.changed["noise", 0.9].value
    with pytest.raises(UserError, match="leave out choose_on_test"):
        robustness(encoder, data, settings=ProbeSettings(choose_on_test=True))


def test_the_command(world, trained, capsys):
    out = world / "robust.json"
    argv = ["probe", "robustness", "--encoder", f"run:{trained}", "--data", world / "classes", "--out", out]
    assert cli.main([str(word) for word in (*argv, "--method", "prototypes")]) == 0
    record = json.loads(out.read_text())
    assert len(record["changed"]) == 12 and {row["kind"] for row in record["changed"]} == set(LEVELS)
    assert "occlusion 0.25" in capsys.readouterr().out
