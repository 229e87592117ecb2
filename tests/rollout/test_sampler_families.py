"""Log-probs of sampled tokens are those of the training step's forward pass, for every style of image.

Squares (LLaVA), patches with M-RoPE and windows (Qwen2-VL, Qwen2.5-VL), tiles (OneVision); rows of mixed lengths, with
and without images, more responses than slots, a group as branches of one row and as rows padded on the left.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax import hub
from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.tiles import tiles_of
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.models.language_model import head_matrix
from pivot_jax.models.mllm import MLLM
from pivot_jax.rollout.engine import Prompt, Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from tests.tiny import mllm, processing, qwen, rollouts

SHAPE = Shape(slots=6, prompts=2, steps=4)
RESPONSES, NEW = 8, 10


def square(folder):
    text = ["What colour is it? red green blue yellow"] * 4
    made = processing.processor(load_tokenizer(train_bpe(text, 300, folder)), max_length=256)
    return *mllm.tiny_mllm(300, gain=2.0), made, pictured((20, 12), (9, 30), (16, 16))


def tiled(folder):
    module, _, made, rows = square(folder)
    cfg = replace(module.config, projector=replace(module.config.projector, newline=True))
    section = {"max_tiles": 5, "preset": "siglip", "size": cfg.vision.image_size}
    geometry = tiles_of(section, cfg.vision.patch_size)
    made = processing.processor(made.chat.tokenizer, geometry=geometry, max_length=256)
    return MLLM(cfg), mllm.random_params(MLLM(cfg), gain=2.0), made, rows


def pictured(*sizes):
    """Questions of several lengths about an image each, and one without."""
    rng, rows = np.random.default_rng(0), [Example("text", (Message("user", "red or green?"),), ())]
    for i, size in enumerate(sizes):
        image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        rows.append(Example(f"q{i}", (Message("user", "<image>\nWhat colour is it?" + " red" * 9 * i),), (image,)))
    return rows


def patches(kind, folder):
    tokens = qwen.tokenizer(folder / "tokenizer")
    qwen.model(kind, tokens, seed=3, text=dict(tie_word_embeddings=False)).save_pretrained(folder)
    cfg, params = hub.read_config(folder).mllm, hub.load_params(folder)
    window = cfg.vision.window // cfg.vision.patch_size
    return MLLM(cfg), params, qwen.processor(kind, tokens, window=window), qwen.examples(seed=1)


STYLES = {
    "LLaVA": square,
    "Qwen2-VL": lambda folder: patches("qwen2_vl", folder),
    "Qwen2.5-VL": lambda folder: patches("qwen2_5_vl", folder),
    "OneVision": tiled,
}


@pytest.fixture(scope="module", params=STYLES)
def style(request, tmp_path_factory):
    """Model, parameters, processor, prompts, and a sampler of the model."""
    module, params, made, rows = STYLES[request.param](tmp_path_factory.mktemp("style"))
    prompts = [Prompt(row, made.encode(row), number) for number, row in enumerate(rows)]
    assert len({len(prompt.row.tokens) for prompt in prompts}) > 2
    sampler = Sampler(module, made, SHAPE)
    sampler.update(params, 0)
    return module, params, made, prompts, sampler


def sampling_of(made, temperature):
    chat = made.chat
    around = [chat.tokenizer.convert_tokens_to_ids(token) for token in chat.format.image_around]
    return Sampling(NEW, temperature, stop_ids=(chat.end_id, 5), banned_ids=(chat.image_id, *around))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7, 0.0])
@pytest.mark.heavy_after(4)
def test_log_probs_are_the_trainer_s(style, temperature):
    module, params, made, prompts, sampler = style
    sampling = sampling_of(made, temperature)
    found = sampler.generate(prompts, RESPONSES, sampling, (3, 4))
    trained = rollouts.trained_logps(module, params, made, prompts, found.responses, sampling)
    for values, group in zip(trained, found.responses, strict=True):
        for logps, response in zip(values, group, strict=True):
            assert not np.isin(response.tokens, sampling.banned_ids).any()
            np.testing.assert_allclose(response.logps, logps, atol=1e-4)
            if temperature:
                assert np.array_equal(response.sampling_logps, response.logps)
    if temperature == 1.0:
        lefts = left_padded_logps(module, params, made, prompts, [group[0] for group in found.responses], sampling)
        for logps, group in zip(lefts, found.responses, strict=True):
            np.testing.assert_allclose(group[0].logps, logps, atol=1e-4)
        assert len({tuple(r.tokens) for group in found.responses for r in group}) > RESPONSES


def left_padded_logps(module, params, made, prompts, responses, sampling):
    """The same of one response to each prompt, as ordinary rows with padding on the left."""
    rows = [rollouts.group_row(p.row, [r.tokens]) for p, r in zip(prompts, responses, strict=True)]
    images = made.geometry.empty(len(rows), made.arrays_per_row)
    for i, row in enumerate(rows):
        if len(row.images):
            for whole, own in images.pairs(made.read_images(row.images)):
                whole[i, : len(own)] = own
    batch = made.batch(rows, images, (max(len(row.tokens) for row in rows) + 3, 0))
    empty = (batch.segments == 0).sum(1)
    names = ("tokens", "image_slots", "positions", "segments", "tile_taps", "tile_weights")
    fields = {name: getattr(batch, name) for name in names if getattr(batch, name) is not None}
    rolled = {
        name: np.stack([np.roll(row, n, axis=0) for row, n in zip(values, empty, strict=True)])
        for name, values in fields.items()
    }
    batch = batch.replace(**rolled)

    @jax.jit
    def compute(params, batch):
        logits = module.apply({"params": params}, batch, method="hidden") @ head_matrix(params).T
        return jax.nn.log_softmax(logits.at[:, :, jnp.asarray(sampling.banned_ids)].set(-jnp.inf))

    logps = np.asarray(compute(params, batch))
    return [
        logps[i, -len(response.tokens) - 1 : -1][np.arange(len(response.tokens)), response.tokens]
        for i, response in enumerate(responses)
    ]


@pytest.mark.heavy_after(1)
def test_truncation_changes_only_the_other_log_prob(style):
    """Tokens are in the kept set; their ``logps`` are those of the whole distribution."""
    module, params, made, prompts, sampler = style
    sampling = replace(sampling_of(made, 1.3), top_p=0.8, top_k=40, min_p=0.01)
    found = sampler.generate(prompts, RESPONSES, sampling, (3, 4))
    trained = rollouts.trained_logps(module, params, made, prompts, found.responses, sampling)
    for values, group in zip(trained, found.responses, strict=True):
        for logps, response in zip(values, group, strict=True):
            np.testing.assert_allclose(response.logps, logps, atol=1e-4)
            assert (response.sampling_logps >= response.logps).all()
    assert max((r.sampling_logps - r.logps).max() for group in found.responses for r in group) > 0.1
