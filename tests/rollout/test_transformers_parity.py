"""64 greedy tokens of the sampler and of transformers, for every language model and LLaVA.

The models are read from a folder, exported, and read again by both, as a user would run them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from pivot_jax import hub, rules
from pivot_jax.data.processing.geometry import Square
from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig
from pivot_jax.models.mllm import MLLM
from tests.tiny import hf, processing, rollouts

NEW = 64
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


def prompts(cfg, has_images: bool):
    """Random prompts, each with an image after its second token."""
    rng = np.random.default_rng(0)
    found = []
    for number, length in enumerate(LENGTHS):
        text, image, patches = rng.integers(hf.IMAGE_TOKEN + 1, cfg.decoder.vocab_size, length), None, 0
        if has_images:
            size, patches = cfg.vision.image_size, cfg.vision.patches
            image = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
        tokens = np.r_[text[:2], np.full(patches, hf.IMAGE_TOKEN), text[2:]]
        found.append(rollouts.prompt(number, rollouts.row(str(number), tokens, patches, image)))
    return found


def theirs(model, prompts, preset: str = "siglip") -> list[list[int]]:
    """transformers' tokens of a batch, which they want padded on the left."""
    rows = [prompt.row for prompt in prompts]
    n = max(len(row.tokens) for row in rows)
    tokens, mask = np.zeros((len(rows), n), int), np.zeros((len(rows), n), int)
    for index, row in enumerate(rows):
        tokens[index, n - len(row.tokens) :], mask[index, n - len(row.tokens) :] = row.tokens, 1
    inputs = dict(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask))
    if rows[0].images:
        pixels = np.array(processing.normalise(np.stack([row.images[0] for row in rows]), preset))
        inputs["pixel_values"] = torch.tensor(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[:, n:].tolist()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.heavy_after(1)
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

    rows = prompts(cfg, has_images)
    preset = "clip" if vision else "siglip"
    square = Square(preset, cfg.vision.image_size, cfg.vision.patches) if has_images else None
    made = rollouts.processor(square) if square else None
    ours = rollouts.greedy(MLLM(cfg) if has_images else LanguageModel(cfg), params, rows, NEW, made)
    assert max(len(set(row)) for row in ours) > 5 and ours[0] != ours[1] != ours[2]

    models = [kind.from_pretrained(tmp_path / folder).eval() for folder in ("theirs", "ours")]
    if "dynamic" not in name:  # there a row's tokens depend on its companions
        assert theirs(models[0], rows, preset) == ours
    for index, row in enumerate(rows):
        fresh = models if "dynamic" not in name else [kind.from_pretrained(tmp_path / "ours").eval()]  # it remembers
        for model in fresh[: 1 if index else 2]:
            assert theirs(model, [row], preset) == [ours[index]]
