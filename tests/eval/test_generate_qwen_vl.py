"""64 greedy tokens of Qwen2-VL and Qwen2.5-VL, batched: the same as transformers' with its padding on the left."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_qwen as tiny
import torch

from pivot_jax import hub
from pivot_jax.eval.generate import generate
from pivot_jax.models.mllm import MLLM

CASES = [
    ("qwen2_5_vl", 64),
    pytest.param("qwen2_vl", 64, marks=pytest.mark.heavy),
]


@pytest.mark.parametrize(("kind", "new"), CASES)
def test_the_same_greedy_tokens(tmp_path, kind, new):
    tokens = tiny.tokenizer(tmp_path / "tokenizer")
    model = tiny.model(kind, tokens, seed=3)
    model.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).mllm, hub.load_params(tmp_path)
    chat = tiny.chat(kind, tokens, window=cfg.vision.window // cfg.vision.patch_size)
    rows = tiny.examples(seed=1)
    ours = generate(MLLM(cfg), params, tiny.batch(chat, rows), max_new_tokens=new, eos_ids=(-1,), pad_id=chat.pad_id)
    assert len({tuple(row) for row in ours.tokens.tolist()}) == len(rows) and len(np.unique(ours.tokens)) > 3
    # transformers answers batches only where they are padded on the left; on the right, row by row without padding.
    for those in (slice(0, 3), slice(0, 1), slice(1, 2)):
        inputs = tiny.theirs(chat, rows[those], left=True)
        length = inputs["input_ids"].shape[1]
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0)
        np.testing.assert_array_equal(ours.tokens[those], out[:, length:].numpy(), err_msg=str(those))
