"""Answers of Qwen2-VL and Qwen2.5-VL: 64 greedy tokens as transformers has them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pivot_jax import hub
from pivot_jax.eval.answerer import Answerer
from pivot_jax.models.mllm import MLLM
from tests.tiny import qwen, rollouts

CASES = [
    ("qwen2_5_vl", 64),
    pytest.param("qwen2_vl", 64, marks=pytest.mark.heavy),
]


@pytest.mark.parametrize(("kind", "new"), CASES)
def test_the_same_greedy_tokens(tmp_path, kind, new):
    tokens = qwen.tokenizer(tmp_path / "tokenizer")
    model = qwen.model(kind, tokens, seed=3)
    model.save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).mllm, hub.load_params(tmp_path)
    made = qwen.processor(kind, tokens, window=cfg.vision.window // cfg.vision.patch_size)
    rows = qwen.examples(seed=1)
    prompts = [rollouts.prompt(number, made.encode(row)) for number, row in enumerate(rows)]
    ours = np.asarray(rollouts.greedy(MLLM(cfg), params, prompts, new, made))
    assert len({tuple(row) for row in ours.tolist()}) == len(rows) and len(np.unique(ours)) > 3
    # transformers answers batches only where they are padded on the left.
    for those in (slice(0, 3), slice(0, 1), slice(1, 2)):
        inputs = qwen.theirs(made, rows[those], left=True)
        length = inputs["input_ids"].shape[1]
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0)
        np.testing.assert_array_equal(ours[those], out[:, length:].numpy(), err_msg=str(those))


@pytest.mark.heavy
def test_an_answerer_of_variable_resolution_images(tmp_path):
    """Answers and ranks do not depend on the batch; blank images keep their size and say nothing."""
    tokens = qwen.tokenizer(tmp_path)
    qwen.model("qwen2_5_vl", tokens, seed=3).save_pretrained(tmp_path)
    cfg, params = hub.read_config(tmp_path).mllm, hub.load_params(tmp_path)
    parts, rows = (MLLM(cfg), params, qwen.processor("qwen2_5_vl", tokens)), qwen.examples(seed=1)
    together = Answerer(*parts, batch_size=2)
    alone = Answerer(*parts, batch_size=1)
    assert together.answer(rows, 5) == alone.answer(rows, 5)
    options = [["red", "blue"]] * len(rows)
    sums, _ = together.option_logps(rows, options)
    np.testing.assert_allclose(sums, alone.option_logps(rows, options)[0], atol=1e-4)
    other = [
        dataclasses.replace(row, images=more.images) for row, more in zip(rows, qwen.examples(seed=2), strict=True)
    ]
    assert np.abs(together.option_logps(other, options)[0] - sums)[:2].max() > 1e-3
    blind = Answerer(*parts, batch_size=2, blank_images=True)
    np.testing.assert_array_equal(blind.option_logps(other, options)[0], blind.option_logps(rows, options)[0])
