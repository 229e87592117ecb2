"""config.json in its newer and older spellings, with what transformers leaves out; and what is refused."""

from __future__ import annotations

import json

import pytest
import tiny_hf as tiny
import transformers

from pivot_jax import hub
from pivot_jax.errors import UserError
from pivot_jax.hub import families
from pivot_jax.models.decoder import DecoderConfig


def write(folder, raw):
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


VISION = {"model_type": "siglip_vision_model"}
TEXT = {"model_type": "qwen2"}


def llava(**changes):
    vision, text = changes.pop("vision", {}), changes.pop("text", {})
    raw = {"vision_config": {**VISION, **vision}, "text_config": {**TEXT, **text}}
    return {"model_type": "llava", **raw, "vision_feature_select_strategy": "full", **changes}


@pytest.mark.parametrize(
    ("table", "config"),
    [
        (families.siglip.DEFAULTS, transformers.SiglipVisionConfig()),
        (families.qwen2.DEFAULTS, transformers.Qwen2Config()),
        (families.llava.DEFAULTS, transformers.LlavaConfig()),
    ],
    ids=["siglip", "qwen2", "llava"],
)
def test_defaults_are_those_of_transformers(table, config):
    for key, value in table.items():
        theirs = config.rope_parameters["rope_theta"] if key == "rope_theta" else getattr(config, key)
        assert theirs == value, key


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_theta": 500000},
        {"rope_theta": 500000.0, "rope_scaling": None},
        {"rope_theta": 500000.0, "rope_scaling": {"type": "default"}},
    ],
)
def test_rope_spellings(tmp_path, rope):
    assert hub.read_config(write(tmp_path, {**TEXT, **rope})).decoder.rope_theta == 5e5


def test_older_spellings_of_a_real_config(tmp_path):
    """As Qwen2-1.5B-Instruct's file has it: torch_dtype, rope_theta, an unused sliding window."""
    raw = {
        **TEXT,
        **{"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
        **{"num_key_value_heads": 2, "rope_theta": 1000000.0, "sliding_window": 32768, "use_sliding_window": False},
        **{"tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 151936},
    }
    expected = DecoderConfig(151936, 1536, 28, 12, 2, 8960, rope_theta=1e6, tied=True)
    assert hub.read_config(write(tmp_path, raw)).decoder == expected


def test_defaults_fill_an_almost_empty_llava(tmp_path):
    model = hub.read_config(write(tmp_path, llava(image_token_index=None, image_token_id=9, text={"hidden_size": 64})))
    assert (model.vision.width, model.vision.depth, model.decoder.depth) == (768, 12, 32)
    assert model.image_token_id == 9
    assert hub.read_config(write(tmp_path, llava())).image_token_id == 32000


@pytest.mark.parametrize(("top", "text", "tied"), [(False, True, True), (True, False, True), (False, False, False)])
def test_llava_is_tied_if_either_level_says_so(tmp_path, top, text, tied):
    raw = llava(tie_word_embeddings=top, text={"tie_word_embeddings": text})
    assert hub.read_config(write(tmp_path, raw)).decoder.tied == tied


def test_normalisation_comes_from_the_image_processor(tmp_path):
    write(tmp_path, VISION)
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": statistics}))
    assert hub.read_config(tmp_path).vision.mean == (0.1, 0.2, 0.3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**statistics, "image_std": [4, 5, 6]}))
    assert hub.read_config(tmp_path).vision.std == (4.0, 5.0, 6.0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model_type": "bert"}, "model_type 'bert' is not supported .*qwen2"),
        ({**TEXT, "hidden_act": "gelu"}, "'hidden_act' is 'gelu'; only 'silu' is supported"),
        ({**TEXT, "use_sliding_window": True}, "'use_sliding_window' is True"),
        ({**TEXT, "rope_scaling": {"type": "yarn", "factor": 4.0}}, "asks for 'yarn' positions"),
        ({**TEXT, "hidden_size": "big"}, "'hidden_size' is 'big'; expected int"),
        (
            {**TEXT, "num_attention_heads": 5, "num_key_value_heads": 2, "hidden_size": 20},
            "5 heads are no multiple of 2",
        ),
        ({**VISION, "image_size": [224, 384]}, "only squares"),
        ({**VISION, "num_channels": 1}, "'num_channels' is 1"),
        ({**VISION, "hidden_act": "relu"}, "'hidden_act' is 'relu'; supported: gelu_pytorch_tanh"),
        (llava(vision_feature_select_strategy=None), "'vision_feature_select_strategy' is 'default'"),
        (llava(vision_feature_layer=-3), "'vision_feature_layer' is -3"),
        (llava(vision_feature_layer=[-2, -5]), r"'vision_feature_layer' is \[-2, -5\]; expected int"),
        (llava(projector_hidden_act="silu"), "'projector_hidden_act' is 'silu'"),
        (llava(vision={"model_type": "clip_vision_model"}), "'vision_config' has model_type 'clip_vision_model'"),
        ({"model_type": "llava"}, "'vision_config' is None"),
    ],
)
def test_refusals(tmp_path, raw, message):
    with pytest.raises(UserError, match=message):
        hub.read_config(write(tmp_path, raw))


def test_no_folder_no_file_no_json(tmp_path):
    with pytest.raises(UserError, match="is not a folder; fetch one: hf download"):
        hub.read_config(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"config.json is missing"):
        hub.read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        hub.read_config(tmp_path)


def test_a_part_is_no_mllm(tmp_path):
    tiny.text_config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'qwen2' checkpoint is no multimodal LLM"):
        _ = hub.read_config(tmp_path).mllm
