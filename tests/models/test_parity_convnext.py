"""Parity of ConvNeXt with transformers, live."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
import transformers

from pivot_jax import hub
from pivot_jax.models.convnext import ConvNeXt
from tests.parity import compare
from tests.tiny import hf

SIZES = {
    "four stages": dict(hidden_sizes=[8, 12, 16, 20], depths=[1, 2, 1, 1], image_size=64),
    "odd widths, image not a multiple of the stride": dict(hidden_sizes=[6, 10], depths=[2, 3], image_size=37),
    "three stages, stem of 2": dict(hidden_sizes=[5, 9, 15], depths=[1, 1, 2], image_size=32, patch_size=2),
}


@pytest.mark.parametrize("name", SIZES)
def test_features_and_pooled_output(tmp_path, name):
    config = transformers.ConvNextConfig(num_stages=len(SIZES[name]["depths"]), **SIZES[name])
    model = hf._random(transformers.ConvNextModel(config), 0)
    model.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).vision, hub.load_params(tmp_path)["vision"]
    images = np.random.default_rng(0).normal(size=(2, cfg.image_size, cfg.image_size, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(images).permute(0, 3, 1, 2))
    net = ConvNeXt(cfg)
    features, pooled = jax.jit(lambda p, x: [net.apply({"params": p}, x, method=m) for m in ("features", "pooled")])(
        params, images
    )
    compare("ConvNeXt", name, "features", features, theirs.last_hidden_state.flatten(2).transpose(1, 2))
    compare("ConvNeXt", name, "pooled", pooled, theirs.pooler_output)


def test_a_classifier_s_folder_and_export(tmp_path):
    """An image classifier's keys are read; what we write loads in transformers and says the same; bit for bit."""
    config = transformers.ConvNextConfig(num_stages=2, hidden_sizes=[6, 10], depths=[1, 2], image_size=32)
    model = hf._random(transformers.ConvNextForImageClassification(config), 1)
    model.save_pretrained(tmp_path / "theirs")
    cfg, params = hub.read_config(tmp_path / "theirs").vision, hub.load_params(tmp_path / "theirs")
    hub.export_encoder(params, cfg, tmp_path / "ours")
    again = hub.load_params(tmp_path / "ours")
    assert hub.read_config(tmp_path / "ours").vision == cfg
    jax.tree.map(np.testing.assert_array_equal, params, again)
    loaded = transformers.ConvNextModel.from_pretrained(tmp_path / "ours")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        gap = loaded(images).pooler_output - model.convnext(images).pooler_output
    assert float(gap.abs().max()) == 0.0
