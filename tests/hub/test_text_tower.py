"""SigLIP's text tower from a Hugging Face folder, against transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.hub.text_tower import read_text_tower

SIZES = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40)


@pytest.fixture(scope="module", params=["Siglip", "Siglip2"])
def folder(request, tmp_path_factory):
    """A whole random model and its folder."""
    torch = pytest.importorskip("torch")
    import transformers

    torch.manual_seed(0)
    text = dict(SIZES, vocab_size=50, max_position_embeddings=9, projection_size=24)
    vision = dict(SIZES, patch_size=4, **({"image_size": 16} if request.param == "Siglip" else {"num_patches": 16}))
    config = getattr(transformers, f"{request.param}Config")(text_config=text, vision_config=vision)
    model = getattr(transformers, f"{request.param}Model")(config).eval()
    out = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(out)
    return out, model


def test_texts_are_encoded_as_in_transformers(folder):
    import torch

    path, model = folder
    tokens = np.random.default_rng(0).integers(0, 50, (3, 9))
    with torch.no_grad():
        wanted = model.text_model(torch.as_tensor(tokens)).pooler_output.numpy()
    config, params = read_text_tower(path)
    found = config.module().apply({"params": params}, tokens)
    np.testing.assert_allclose(np.asarray(found), wanted, atol=2e-6)


def test_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match="model_type is 'clip'; only a whole SigLIP"):
        read_text_tower(tmp_path)
