"""A probe of clean images is scored under changes of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pivot_jax.cli import main as cli
from pivot_jax.data.processing.corruptions import LEVELS
from pivot_jax.errors import UserError
from pivot_jax.probe.classification import ProbeSettings
from pivot_jax.probe.encoder_probes import classify
from pivot_jax.probe.robust_accuracy import robustness
from tests.probe.conftest import tiny_encoder


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
    assert len(record["changed"]) == 15 and {row["kind"] for row in record["changed"]} == set(LEVELS)
    assert "occlusion 0.25" in capsys.readouterr().out
