"""The Qwen2 decoder against transformers, live (acceptance test B4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_hf as tiny
import torch

from pivot_jax import hub
from pivot_jax.models.decoder import Decoder

SHAPES = {
    "tied, two queries per key": {},
    "untied, no grouping, odd sizes": dict(
        tie_word_embeddings=False, num_key_value_heads=4, hidden_size=56, intermediate_size=43, vocab_size=59
    ),
    "one key head": dict(hidden_size=30, num_attention_heads=5, num_key_value_heads=1),
    "head size of its own": dict(num_attention_heads=6, num_key_value_heads=3, head_dim=10, tie_word_embeddings=False),
    "three layers, long waves": dict(num_hidden_layers=3, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
}


def _logits(params, cfg, tokens, positions, segments):
    decoder = Decoder(cfg)

    @jax.jit
    def run(params):
        variables = {"params": params["decoder"]}
        x = decoder.apply(variables, tokens, method="embed_tokens")
        hidden = decoder.apply(variables, x, positions, segments, method="hidden")
        head = params["decoder"].get("head", params["decoder"]["embed"])
        return jnp.einsum("bnd,vd->bnv", hidden, head)

    return run(params)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_B4_logits(tmp_path, changes):
    model = tiny.text_model(**changes)
    model.save_pretrained(tmp_path)
    cfg = hub.read_config(tmp_path).decoder
    assert cfg.tied == model.config.tie_word_embeddings
    tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, 13))
    with torch.no_grad():
        theirs = model(torch.tensor(tokens)).logits
    positions = np.broadcast_to(np.arange(13), (2, 13))
    ours = _logits(hub.load_params(tmp_path), cfg, tokens, positions, np.ones((2, 13), np.int32))
    assert tiny.max_gap(ours, theirs) <= 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
def test_B4_padding_changes_nothing(tmp_path, side):
    model = tiny.text_model()
    model.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).decoder, hub.load_params(tmp_path)
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, cfg.vocab_size, length) for length in (9, 5)]
    tokens, segments = np.zeros((2, 12), np.int32), np.zeros((2, 12), np.int32)
    for row, ids in enumerate(rows):
        place = slice(12 - len(ids), 12) if side == "left" else slice(0, len(ids))
        tokens[row, place], segments[row, place] = ids, 1
    positions = np.maximum(np.cumsum(segments, axis=1) - 1, 0)
    ours = np.asarray(_logits(params, cfg, tokens, positions, segments))
    for row, ids in enumerate(rows):
        with torch.no_grad():
            theirs = model(torch.tensor(ids[None])).logits
        assert tiny.max_gap(ours[row][segments[row] > 0], theirs[0]) <= 1e-4
