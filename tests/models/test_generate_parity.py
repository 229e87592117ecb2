"""64 greedy tokens with our cache and with transformers', for every language model and LLaVA, padded on either side.

The models are read from a folder, exported, and read again by both, as a user would run them.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
import transformers

from pivot_jax import hub, rules
from pivot_jax.data.processing.batch import PromptBatch
from pivot_jax.models.generate import Sampling, generate
from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig
from pivot_jax.models.mllm import MLLM
from tests.tiny import hf

NEW, NEVER = 64, -1  # tokens, and an end token that never comes
LENGTHS = (9, 4, 6)  # of the prompts' texts
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 16},
    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
MODELS: dict[str, tuple[bool, dict]] = {  # whether it has images, and its settings
    "Qwen2": (False, dict(family="qwen2")),
    "Qwen3": (False, dict(family="qwen3")),
    "Llama": (False, dict(family="llama", rope_parameters=LLAMA3)),
    "LLaVA, Qwen2": (True, dict(family="qwen2")),
    "LLaVA, Qwen3": (True, dict(family="qwen3")),
    "LLaVA, Llama": (True, dict(family="llama")),
    "LLaVA, CLIP and Llama": (True, dict(family="llama", vision=dict(kind="clip_vision_model"))),
    "Qwen2, yarn": (False, dict(family="qwen2", rope_parameters=YARN)),
    "Llama, dynamic": (False, dict(family="llama", rope_parameters=DYNAMIC, max_position_embeddings=24)),
}
LIGHT = ("Qwen2", "Qwen3", "Llama", "LLaVA, Qwen2")  # of `make test`
CASES = [pytest.param(name, id=name, marks=() if name in LIGHT else pytest.mark.heavy) for name in MODELS]


def prompts(cfg, has_images: bool, side: str) -> PromptBatch:
    """Random prompts, each with an image after its second token, padded on ``side``."""
    rng = np.random.default_rng(0)
    patches = cfg.vision.patches if has_images else 0
    n = max(LENGTHS) + patches
    fields = {"tokens": 0, "image_slots": -1, "positions": 0, "segments": 0}
    filled = {name: np.full((len(LENGTHS), n), value, np.int32) for name, value in fields.items()}
    for row, length in enumerate(LENGTHS):
        text = rng.integers(hf.IMAGE_TOKEN + 1, cfg.decoder.vocab_size, length)
        whole = {
            "tokens": np.r_[text[:2], np.full(patches, hf.IMAGE_TOKEN), text[2:]],
            "image_slots": np.r_[-1, -1, np.arange(patches), np.full(length - 2, -1)],
            "positions": np.arange(length + patches),
            "segments": np.ones(length + patches),
        }
        part = slice(0, length + patches) if side == "right" else slice(n - length - patches, n)
        for name, values in whole.items():
            filled[name][row, part] = values
    size = cfg.vision.image_size if has_images else 1
    images = rng.normal(size=(len(LENGTHS), int(has_images), size, size, 3)).astype(np.float32)
    return PromptBatch(images=images, row_index=np.arange(len(LENGTHS), dtype=np.int32), **filled)


def theirs(model, batch: PromptBatch, rows: slice = slice(None)) -> list[list[int]]:
    """transformers' tokens for the rows as they are padded; a single row without its padding."""
    tokens, mask, images = (x[rows] for x in (batch.tokens, batch.segments, batch.images))
    if len(tokens) == 1:
        tokens, mask = tokens[mask > 0][None], mask[mask > 0][None]
    inputs = dict(input_ids=torch.tensor(tokens, dtype=torch.long), attention_mask=torch.tensor(mask))
    if images.shape[1]:
        inputs["pixel_values"] = torch.tensor(images[:, 0]).permute(0, 3, 1, 2)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=NEVER, pad_token_id=0)
    return out[:, tokens.shape[1] :].tolist()


@pytest.mark.parametrize("name", CASES)
def test_64_greedy_tokens(tmp_path, name):
    has_images, settings = MODELS[name]
    settings = {**settings, "tie_word_embeddings": False}  # with random weights a tied model repeats its last token
    vision = settings.pop("vision", None)
    build = hf.llava_model(3, vision, settings) if has_images else hf.text_model(3, **settings)
    build.save_pretrained(tmp_path / "theirs")
    found, params = hub.read_config(tmp_path / "theirs"), hub.load_params(tmp_path / "theirs")
    if has_images:
        cfg = found.mllm
        hub.export_mllm(params, cfg, tmp_path / "ours", text=hub.ExportText(image_token=hf.IMAGE_TOKEN))
        kind = transformers.LlavaForConditionalGeneration
    else:
        cfg = LanguageModelConfig(found.decoder)
        hub.export_decoder(params, found.decoder, tmp_path / "ours")
        kind = transformers.AutoModelForCausalLM
    assert hub.read_config(tmp_path / "ours").decoder == cfg.decoder
    again = rules.flatten(hub.load_params(tmp_path / "ours"))
    assert again.keys() == rules.flatten(params).keys()
    for path, leaf in rules.flatten(params).items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)

    right, left = (prompts(cfg, has_images, side) for side in ("right", "left"))
    ours_model = MLLM(cfg) if has_images else LanguageModel(cfg)
    out = generate(ours_model, params, right, Sampling(NEW, (NEVER,)))
    ours = [out.ids(row) for row in range(len(LENGTHS))]
    out = generate(ours_model, params, left, Sampling(NEW, (NEVER,)))
    assert [out.ids(row) for row in range(len(LENGTHS))] == ours
    assert max(len(set(row)) for row in ours) > 5 and ours[0] != ours[1] != ours[2]

    models = [kind.from_pretrained(tmp_path / folder).eval() for folder in ("theirs", "ours")]
    if "dynamic" not in name:  # there a row's tokens depend on its companions
        assert theirs(models[0], left) == ours
    for row in range(len(LENGTHS)):
        fresh = models if "dynamic" not in name else [kind.from_pretrained(tmp_path / "ours").eval()]  # it remembers
        for model in fresh[: 1 if row else 2]:
            assert theirs(model, right, slice(row, row + 1)) == [ours[row]]


def test_padding_on_either_side_is_the_same_batch():
    """Positions of any number of axes go with their tokens."""
    from pivot_jax.models.generate import _right_padded

    tokens, segments = np.array([[0, 0, 7, 8], [0, 5, 0, 6]]), np.array([[0, 0, 1, 1], [0, 1, 0, 1]])
    positions = np.arange(24).reshape(2, 4, 3)
    batch = PromptBatch(np.zeros((2, 0, 8, 8, 3)), tokens, tokens - 1, positions, segments, np.arange(2))
    moved = jax.jit(_right_padded)(batch)
    assert np.array_equal(moved.tokens, [[7, 8, 0, 0], [5, 6, 0, 0]])
    assert np.array_equal(moved.image_slots, moved.tokens - 1)
    assert np.array_equal(moved.segments, [[1, 1, 0, 0]] * 2)
    assert np.array_equal(moved.positions[0, :2], positions[0, 2:]) and moved.positions.shape == (2, 4, 3)
