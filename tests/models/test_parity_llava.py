"""Parity of the whole MLLM with transformers' LLaVA (SigLIP or CLIP, and each language model), live."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pivot_jax import hub
from pivot_jax.data.processing.batch import PromptBatch
from pivot_jax.models.mllm import MLLM, head_matrix
from tests.parity import compare
from tests.tiny import hf

LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 16},
    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
SHAPES: dict[str, dict] = {
    "tied": {},
    "untied, odd sizes": dict(
        vision=dict(hidden_size=20, num_attention_heads=5, image_size=37, patch_size=7, num_hidden_layers=2),
        text=dict(tie_word_embeddings=False, hidden_size=30, num_attention_heads=5, num_key_value_heads=1),
    ),
    "CLIP tower": dict(vision=dict(kind="clip_vision_model", num_hidden_layers=2, image_size=37, patch_size=7)),
    "features of the last block": dict(vision_feature_layer=-1),
    "layer counted from the front": dict(vision_feature_layer=2, text=dict(num_key_value_heads=4)),
    "Qwen3": dict(text=dict(family="qwen3")),
    "Qwen3, untied, odd sizes": dict(
        vision=dict(hidden_size=20, num_attention_heads=5),
        text=dict(family="qwen3", tie_word_embeddings=False, hidden_size=27, num_key_value_heads=1),
    ),
    "Llama": dict(text=dict(family="llama")),
    "Llama, scaled, untied": dict(
        vision=dict(image_size=37, patch_size=7),
        text=dict(family="llama", tie_word_embeddings=False, rope_parameters=LLAMA3),
    ),
    "CLIP and Llama, odd sizes": dict(
        vision=dict(kind="clip_vision_model", hidden_size=20, num_attention_heads=5),
        text=dict(family="llama", tie_word_embeddings=False),
    ),
    "CLIP and Qwen3, features of the last block": dict(
        vision=dict(kind="clip_vision_model"), text=dict(family="qwen3"), vision_feature_layer=-1
    ),
}
LIGHT = ("tied", "CLIP tower", "features of the last block", "Qwen3", "Llama, scaled, untied")  # of `make test`
TEXT = ((4, 2, 3), (1, 5, 1))  # text tokens before, between and after the two images of each row


def prompts(cfg, seed: int = 0, size: int = 0) -> tuple[PromptBatch, np.ndarray]:
    """Two rows with two images each, right padded, and the images as pixel values [4, 3, H, W]."""
    rng = np.random.default_rng(seed)
    m, p = 2, cfg.vision.patches
    images = rng.normal(size=(2, m, cfg.vision.image_size, cfg.vision.image_size, 3)).astype(np.float32)
    length = max(sum(text) for text in TEXT) + m * p
    tokens, slots, segments = (np.full((2, length), fill, np.int32) for fill in (0, -1, 0))
    for row, text in enumerate(TEXT):
        ids, own = [], []
        for i, count in enumerate(text):
            ids += [*rng.integers(hf.IMAGE_TOKEN + 1, cfg.decoder.vocab_size, count)]
            own += [-1] * count
            if i < m:
                ids += [hf.IMAGE_TOKEN] * p
                own += range(i * p, (i + 1) * p)
        tokens[row, : len(ids)], slots[row, : len(ids)], segments[row, : len(ids)] = ids, own, 1
    positions = np.maximum(np.cumsum(segments, axis=1) - 1, 0)
    batch = PromptBatch(images, tokens, slots, positions, segments, np.arange(2, dtype=np.int32))
    return batch, images.reshape(-1, *images.shape[2:]).transpose(0, 3, 1, 2)


def forward(model, batch, pixels):
    """Outputs of transformers, hidden states included."""
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(batch.tokens, dtype=torch.long),
            pixel_values=torch.tensor(pixels),
            attention_mask=torch.tensor(batch.segments),
            output_hidden_states=True,
        )


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=name, marks=() if name in LIGHT else pytest.mark.heavy) for name in SHAPES]
)
def test_logits(tmp_path, name):
    model = hf.llava_model(**SHAPES[name])
    model.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).mllm, hub.load_params(tmp_path)
    batch, pixels = prompts(cfg)
    mllm = MLLM(cfg)

    @jax.jit
    def run(params, batch):
        hidden = mllm.apply({"params": params}, batch, method="hidden")
        return hidden, jnp.einsum("bnd,vd->bnv", hidden, head_matrix(params))

    hidden, logits = map(np.asarray, run(params, batch))
    theirs = forward(model, batch, pixels)
    real = batch.segments > 0
    parts = (model.config.vision_config.model_type.removesuffix("_vision_model"), model.config.text_config.model_type)
    family = f"LLaVA, {' and '.join(parts)}"
    compare(family, name, "states", hidden[real], theirs.hidden_states[-1].numpy()[real])
    compare(family, name, "logits", logits[real], theirs.logits.numpy()[real])


def test_similarity_to_the_image_tokens(tmp_path):
    """PEPO's prior: mean over all of transformers' hidden states and over image tokens of the cosine, pair by pair."""
    model = hf.llava_model(text=dict(family="qwen3"))
    model.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).mllm, hub.load_params(tmp_path)
    batch, pixels = prompts(cfg)
    states, similarity = jax.jit(
        lambda params: MLLM(cfg).apply({"params": params}, batch, method="hidden_and_similarity")
    )(params)
    theirs = forward(model, batch, pixels)
    real = batch.segments > 0
    np.testing.assert_allclose(np.asarray(states)[real], theirs.hidden_states[-1].numpy()[real], atol=1e-4)
    for row in range(2):
        image = np.flatnonzero(batch.image_slots[row] >= 0)
        for token in np.flatnonzero(real[row]):
            cosines = [
                torch.cosine_similarity(layer[row, token], layer[row, seen], dim=0)
                for layer in theirs.hidden_states
                for seen in image
            ]
            np.testing.assert_allclose(similarity[row, token], np.mean(cosines), atol=1e-4)
    assert np.ptp(np.asarray(similarity)[real]) > 0.1
