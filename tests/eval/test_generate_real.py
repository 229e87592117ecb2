"""A real trained language model (260K parameters, llama2.c's format) tells its story through our decoder and cache."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pivot_jax.data.batch import PromptBatch
from pivot_jax.eval.generate import generate
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import MLLM, MLLMConfig, ProjectorConfig
from pivot_jax.models.vit import ViTConfig

BOS = 1


@pytest.fixture(scope="module")
def stories(shared_data):
    """(model without pictures, parameters, greedy ids behind BOS)."""
    folder = shared_data / "stories260k"
    data = (folder / "stories260K.bin").read_bytes()
    width, hidden, depth, heads, kv_heads, vocabulary, _ = np.frombuffer(data[:28], np.int32).tolist()
    values = np.frombuffer(data[28:], np.float32)
    place = 0

    def take(*shape):
        nonlocal place
        size = int(np.prod(shape))
        place += size
        return values[place - size : place].reshape(shape)

    c = width // heads
    embed, norm1 = take(vocabulary, width), take(depth, width)
    q, k, v = take(depth, width, width), take(depth, kv_heads * c, width), take(depth, kv_heads * c, width)
    out, norm2 = take(depth, width, width), take(depth, width)
    gate, down, up = take(depth, hidden, width), take(depth, width, hidden), take(depth, hidden, width)
    norm = take(width)

    def halves(kernel):
        """llama2.c rotates neighbours, Qwen2 rotates the two halves of a head: even rows first, then odd ones."""
        by_head = kernel.reshape(depth, -1, c, width)
        return np.concatenate([by_head[:, :, ::2], by_head[:, :, 1::2]], axis=2).reshape(kernel.shape)

    def kernel(matrix):
        return {"kernel": matrix.transpose(0, 2, 1)}

    blocks = {
        "norm1": {"scale": norm1},
        "norm2": {"scale": norm2},
        "attn": {"q": kernel(halves(q)), "k": kernel(halves(k)), "v": kernel(v), "out": kernel(out)},
        "mlp": {"gate": kernel(gate), "up": kernel(up), "down": kernel(down)},
    }
    config = DecoderConfig(
        vocab_size=vocabulary, width=width, depth=depth, heads=heads, kv_heads=kv_heads, mlp_dim=hidden,
        rope_theta=1e4, eps=1e-5, qkv_bias=False,
    )  # fmt: skip
    vision = ViTConfig(image_size=8, patch_size=4, width=8, depth=2, heads=2, mlp_dim=8, pool_head=False)
    mllm = MLLM(MLLMConfig(vision, ProjectorConfig(), config))
    golden = json.loads((folder / "greedy_from_bos.json").read_text())["ids"]
    return mllm, {"decoder": {"embed": embed, "blocks": blocks, "norm": {"scale": norm}}}, golden


def prompts(*rows):
    n = max(map(len, rows))
    lengths = np.array([len(row) for row in rows])
    tokens = np.array([[*row, *[0] * (n - len(row))] for row in rows], np.int32)
    segments = (np.arange(n) < lengths[:, None]).astype(np.int32)
    positions = np.broadcast_to(np.arange(n, dtype=np.int32), tokens.shape)
    images = np.zeros((len(rows), 0, 8, 8, 3), np.uint8)
    return PromptBatch(images, tokens, np.full_like(tokens, -1), positions, segments, np.arange(len(rows)))


def test_greedy_story_from_any_point_of_it(stories):
    mllm, params, golden = stories
    starts = (0, 1, 17, 40)
    batch = prompts(*[[BOS, *golden[:start]] for start in starts])
    out = generate(mllm, params, batch, max_new_tokens=60, eos_ids=(-1,))
    for row, start in enumerate(starts):
        assert out.ids(row) == golden[start : start + 60]
    assert (out.logps < 0).all() and out.logps.mean() > -1.5  # a trained model is sure of its words
