"""A real trained language model (260K parameters) tells its story: read as a Llama, decoded by the sampler."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from pivot_jax import hub
from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig
from pivot_jax.rollout.engine import Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from tests.tiny import rollouts

BOS = 1


@pytest.fixture(scope="module")
def stories(shared_data, tmp_path_factory):
    """(language model, parameters, greedy ids after BOS), read as a Llama folder of Hugging Face."""
    folder = tmp_path_factory.mktemp("stories")
    write_llama(shared_data / "stories260k" / "stories260K.bin", folder)
    model = LanguageModel(LanguageModelConfig(hub.read_config(folder).decoder))
    golden = json.loads((shared_data / "stories260k" / "greedy_from_bos.json").read_text())["ids"]
    return model, hub.load_params(folder), golden


def write_llama(path, folder):
    """llama2.c's file as a LlamaForCausalLM: a header of seven int32, then float32 matrices [layers, out, in]."""
    data = path.read_bytes()
    width, hidden, depth, heads, kv_heads, vocabulary, context = np.frombuffer(data[:28], np.int32).tolist()
    values = np.frombuffer(data[28:], np.float32)
    c, layer = width // heads, "model.layers.{}."
    shapes = {
        "model.embed_tokens.weight": (vocabulary, width),
        f"{layer}input_layernorm.weight": (depth, width),
        f"{layer}self_attn.q_proj.weight": (depth, width, width),
        f"{layer}self_attn.k_proj.weight": (depth, kv_heads * c, width),
        f"{layer}self_attn.v_proj.weight": (depth, kv_heads * c, width),
        f"{layer}self_attn.o_proj.weight": (depth, width, width),
        f"{layer}post_attention_layernorm.weight": (depth, width),
        f"{layer}mlp.gate_proj.weight": (depth, hidden, width),
        f"{layer}mlp.down_proj.weight": (depth, width, hidden),
        f"{layer}mlp.up_proj.weight": (depth, hidden, width),
        "model.norm.weight": (width,),
    }
    tensors, start = {}, 0
    for name, shape in shapes.items():
        array = values[start : start + int(np.prod(shape))].reshape(shape)
        start += array.size
        if "q_proj" in name or "k_proj" in name:  # llama2.c rotates neighbours, transformers the halves of a head
            by_head = array.reshape(depth, -1, c, width)
            array = np.concatenate([by_head[:, :, ::2], by_head[:, :, 1::2]], axis=2).reshape(shape)
        for i, own in enumerate(array if "{}" in name else [array]):
            tensors[name.format(i)] = np.ascontiguousarray(own)
    save_file(tensors, folder / "model.safetensors")
    config = {
        **{"model_type": "llama", "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": depth},
        **{"num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary},
        **{"max_position_embeddings": context, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    }
    (folder / "config.json").write_text(json.dumps(config))


def test_the_greedy_story_from_any_point_of_it(stories):
    """All 120 tokens from its start, and the rest of them from later points, in one batch."""
    model, params, golden = stories
    starts = (0, 1, 17, 40)
    prompts = [rollouts.prompt(start, rollouts.row(str(start), [BOS, *golden[:start]])) for start in starts]
    sampler = Sampler(model, None, Shape(slots=3, prompts=2, steps=16))
    sampler.update(params, 0)
    out = sampler.generate(prompts, 1, Sampling(len(golden), temperature=0.0), (0, 0))
    assert len(golden) == 120
    for start, (story,) in zip(starts, out.responses, strict=True):
        assert story.tokens[: len(golden) - start].tolist() == golden[start:]
        assert (story.logps < 0).all()
    assert out.responses[0][0].logps.mean() > -1.5  # a trained model is sure of its words
