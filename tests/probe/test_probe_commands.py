"""``probe classify`` and ``probe segment`` on the command line: methods, grids, cache, protocols."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pivot_jax.cli import main as cli


def run(*argv):
    return cli.main([str(word) for word in argv])


def test_classify_by_every_method(world, trained, capsys):
    out = world / "classify.json"
    argv = ["probe", "classify", "--encoder", f"run:{trained}", "--data", world / "classes", "--out", out]
    argv += ["--cache", world / "cache"]
    options = {
        "logistic": ["--C", "paper"], "knn": ["--k", "1,3"], "sgd": ["--epochs", 2, "--learning-rates", "0.1,1"],
        "prototypes": [],
    }  # fmt: skip
    for method, more in options.items():
        assert run(*argv, "--method", method, *more) == 0
        record = json.loads(out.read_text())
        assert record["method"] == method and 0 <= record["low"] <= record["accuracy"] <= record["high"] <= 1
        assert (record["C"] is None) == (method != "logistic")
        assert [name for name, _ in record["grid"]] == {
            "logistic": [0.01, 0.03, 0.1, 0.316, 1.0, 3.16], "knn": [1, 3], "sgd": [0.1, 1], "prototypes": [],
        }[method]  # fmt: skip
    assert "chosen on 2 images that are no test images" in capsys.readouterr().out
    assert len(list((world / "cache").glob("*.npy"))) == 2  # train with the val taken from it, and test


def test_choosing_on_the_reported_images_is_asked_for_and_flagged(world, trained, capsys):
    argv = ["probe", "classify", "--encoder", f"run:{trained}", "--data", world / "classes", "--choose-on-test"]
    with pytest.warns(UserWarning, match="CHOSEN ON TEST"):
        assert run(*argv, "--C", "paper") == 0
    shown = capsys.readouterr().out
    assert "chosen on the test images" in shown and "note: CHOSEN ON TEST: 100% of the reported images" in shown
    with pytest.warns(UserWarning, match="TRAIN IS TEST"):
        assert run(*argv, "--method", "prototypes") == 0


@pytest.mark.heavy
def test_segment_by_the_protocol_of_patch_seg(world, trained, capsys):
    out = world / "segment.json"
    argv = ["probe", "segment", "--encoder", f"run:{trained}", "--data", world / "masks"]
    argv += ["--classes", "red,green,blue", "--out", out]
    assert run(*argv, "--protocol", "patch-seg", "--seeds", 2) == 0
    assert "note: CHOSEN ON TEST" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["seeds"]["recall"]) == 2
    assert run(*argv, "--head", "linear", "--seeds", 1, "--layer", 1) == 0
    assert "vision features of block 1" in capsys.readouterr().out and np.isfinite(json.loads(out.read_text())["miou"])
