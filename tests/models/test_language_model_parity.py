"""A language model alone: layer means and log-probs against transformers."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch

from pivot_jax import hub
from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig, text_batch
from pivot_jax.models.logprobs import score
from tests.tiny import hf

ROWS = ([5, 9, 2, 40, 17, 33], [8, 3, 60], [1])


@pytest.mark.parametrize(("family", "scan"), [("qwen2", True), ("llama", False)])
def test_layer_means_and_logps(tmp_path, family, scan):
    """transformers on each row without padding: the mean of every hidden state, and next-token log-probs."""
    theirs = hf.text_model(family=family)
    theirs.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).decoder, hub.load_params(tmp_path)
    model = LanguageModel(LanguageModelConfig(dataclasses.replace(cfg, scan_layers=scan)))
    batch = text_batch(ROWS, cfg, pad_id=7)
    means = jax.jit(lambda params: model.apply({"params": params}, batch, method="layer_means"))(params)
    logps = np.asarray(jax.jit(lambda params: score(model, params, batch).logps)(params))
    assert means.shape == (3, cfg.depth + 1, cfg.width)
    assert batch.weights.sum(axis=1).tolist() == [5, 2, 0]
    for row, ids in enumerate(ROWS):
        with torch.no_grad():
            out = theirs(torch.tensor([ids]), output_hidden_states=True)
        expected = torch.stack([state[0].mean(dim=0) for state in out.hidden_states])
        assert hf.max_gap(means[row], expected) <= 1e-5
        distributions = torch.log_softmax(out.logits[0], -1).numpy()
        next_tokens = [distributions[index, token] for index, token in enumerate(ids[1:])]
        np.testing.assert_allclose(logps[row, : len(ids) - 1], next_tokens, atol=1e-4)
    assert (logps[np.asarray(batch.weights) == 0] == 0).all()  # padding, which a sum must not count


def test_bad_input(tmp_path):
    hf.text_model().save_pretrained(tmp_path)
    cfg = hub.read_config(tmp_path).decoder
    for rows in ([], [[1], []]):
        with pytest.raises(ValueError, match="at least one row, and every row a token"):
            text_batch(rows, cfg)
    batch = text_batch(ROWS, cfg).replace(images=np.zeros((3, 1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="reads no images; use an MLLM"):
        LanguageModel(LanguageModelConfig(cfg)).apply({"params": {}}, batch, method="hidden")
