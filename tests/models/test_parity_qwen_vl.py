"""Parity of Qwen2-VL and Qwen2.5-VL with transformers, live: tower, merger, positions, logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pivot_jax import hub
from pivot_jax.models import qwen_vision
from pivot_jax.models.layers import COLLECT_NOTHING
from pivot_jax.models.mllm import MLLM, head_matrix
from tests.parity import compare
from tests.tiny import qwen

NAMES = {"qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL"}
CONFIGS = {
    "plain": {},
    "odd sizes, untied": dict(
        vision=dict(depth=2, num_heads=5, embed_dim=20, hidden_size=20, intermediate_size=27),
        text=dict(
            hidden_size=30, num_attention_heads=5, num_key_value_heads=1, intermediate_size=37,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 1]},
        ),
    ),
    "patch of 8, four blocks": dict(
        vision=dict(depth=4, patch_size=8, window_size=32, fullatt_block_indexes=[0, 3]),
        text=dict(rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}),
    ),
}  # fmt: skip
LIGHT = [("qwen2_vl", "plain"), ("qwen2_5_vl", "odd sizes, untied")]  # of `make test`
CASES = [
    pytest.param(kind, name, marks=() if (kind, name) in LIGHT else pytest.mark.heavy)
    for kind in NAMES
    for name in CONFIGS
]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return qwen.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def _changes(kind, name):
    """The tower's width has another name in each family."""
    changes = {part: dict(values) for part, values in CONFIGS[name].items()}
    own = ("embed_dim",) if kind == "qwen2_vl" else ("hidden_size", "intermediate_size", "window_size")
    own += () if kind == "qwen2_vl" else ("fullatt_block_indexes",)
    keep = ("depth", "num_heads", "patch_size", *own)
    return changes | {"vision": {k: v for k, v in changes.get("vision", {}).items() if k in keep}}


def _program(mllm):
    """Blocks' outputs, merged tokens, states and logits of ours, from one program."""
    depth = mllm.config.vision.depth
    taps = tuple(f"blocks/{i}" for i in range(depth))

    @jax.jit
    def run(params, batch):
        variables = {"params": params}
        features, found = mllm.apply(
            variables, batch.images, taps, batch.patch_positions, method="encode_images_with_taps"
        )
        merged = mllm.apply(variables, features, method="project")
        hidden = mllm.apply(variables, batch, features, method="hidden")
        return found, merged, hidden, jnp.einsum("bnd,vd->bnv", hidden, head_matrix(params))

    return run


@pytest.mark.parametrize("kind", NAMES)
def test_one_block(tmp_path, tokens, kind):
    """One block on the same input, at 1e-5: within a window and over a whole image of 2 x 6 tokens."""
    model = qwen.model(kind, tokens)
    model.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).vision, hub.load_params(tmp_path)["vision"]
    coordinates = np.argwhere(np.ones((4, 12), bool))[None].astype(np.int32)
    x = np.random.default_rng(0).normal(size=(1, 48, cfg.width)).astype(np.float32)
    whole, windows = qwen_vision.segments(jnp.asarray(coordinates), 4)
    angles = qwen_vision.rotary_angles_2d(jnp.asarray(coordinates), cfg.width // cfg.heads)
    block = qwen_vision.Block(cfg)
    own = jax.tree.map(lambda leaf: leaf[1], params["blocks"])
    run = jax.jit(lambda full: block.apply({"params": own}, x, full, angles, whole, windows, COLLECT_NOTHING)[0])
    cos_sin = tuple(torch.tensor(np.array(part))[0, :, 0] for part in angles)
    for full in (True, False):
        order = np.arange(48) if full else np.argsort(np.asarray(windows)[0], kind="stable")
        ends = torch.tensor([0, 48] if full else [0, 16, 32, 48], dtype=torch.int32)
        with torch.no_grad():
            rotary = tuple(part[order] for part in cos_sin)
            out = model.model.visual.blocks[1](torch.tensor(x[0, order]), cu_seqlens=ends, position_embeddings=rotary)
        compare(NAMES[kind], "one block", f"output, full attention: {full}", run(full)[0, order], out, 1e-5)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_tower_and_logits(tmp_path, tokens, kind, name):
    """Rows with two images, three, and none, of three sizes, in one batch."""
    model = qwen.model(kind, tokens, **_changes(kind, name))
    model.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).mllm, hub.load_params(tmp_path)
    patch, window = cfg.vision.patch_size, cfg.vision.window // cfg.vision.patch_size
    made, rows = qwen.processor(kind, tokens, patch, window), qwen.examples(patch)
    batch, inputs = qwen.batch(made, rows), qwen.theirs(made, rows)
    run = _program(MLLM(cfg))
    found, merged, hidden, logits = run(params, batch)
    with torch.no_grad():
        tower = model.model.visual(inputs["pixel_values"], inputs["image_grid_thw"], output_hidden_states=True)
        out = model(**inputs, output_hidden_states=True)
        positions, _ = model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )  # fmt: skip
    real = batch.segments > 0
    np.testing.assert_array_equal(batch.positions[real], positions.permute(1, 2, 0).numpy()[real])

    # Their tower has the patches in the order of its windows, which is our order too.
    there = batch.patch_positions.reshape(3, -1, 2)[..., 0] >= 0
    for i, state in enumerate(tower.hidden_states[1:]):
        ours = np.asarray(found[f"blocks/{i}"])[there]
        compare(NAMES[kind], name, f"tower, block {i}", ours, state)
    ours = np.concatenate(
        [np.asarray(merged)[row][batch.image_slots[row][batch.image_slots[row] >= 0]] for row in range(3)]
    )
    compare(NAMES[kind], name, "image tokens", ours, tower.pooler_output)
    compare(NAMES[kind], name, "last hidden state", np.asarray(hidden)[real], out.hidden_states[-1].numpy()[real])
    compare(NAMES[kind], name, "logits", np.asarray(logits)[real], out.logits.numpy()[real])
    if window:  # the order of the patches is a matter of speed only
        again = run(params, qwen.batch(qwen.processor(kind, tokens, patch, 0), rows))[-1]
        np.testing.assert_allclose(np.asarray(again)[real], np.asarray(logits)[real], atol=1e-4)
