"""config.json in its newer and older spellings, with what transformers leaves out; and errors."""

from __future__ import annotations

import json

import pytest
import transformers

from pivot_jax import hub
from pivot_jax.errors import UserError
from pivot_jax.hub import families
from pivot_jax.hub.families import LANGUAGES
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.rotary import RopeScaling
from tests.tiny import hf


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
        (families.siglip.NAFLEX_DEFAULTS, transformers.Siglip2VisionConfig()),
        (families.clip.DEFAULTS, transformers.CLIPVisionConfig()),
        (families.dinov2.DEFAULTS, transformers.Dinov2Config()),
        (families.dinov2.REGISTER_DEFAULTS, transformers.Dinov2WithRegistersConfig()),
        (families.vit.POOLER_DEFAULTS, transformers.ViTConfig()),
        (families.vit.DEFAULTS, transformers.ViTMAEConfig()),
        (families.qwen2.DEFAULTS, transformers.Qwen2Config()),
        (families.qwen3.DEFAULTS, transformers.Qwen3Config()),
        (families.llama.DEFAULTS, transformers.LlamaConfig()),
        (families.llava.DEFAULTS, transformers.LlavaConfig()),
        (families.llava.ONEVISION, transformers.LlavaOnevisionConfig()),
        (families.convnext.DEFAULTS, transformers.ConvNextConfig()),
    ],
    ids=lambda x: type(x).__name__.removesuffix("Config") if hasattr(x, "model_type") else "",
)
def test_defaults_are_those_of_transformers(table, config):
    for key, value in table.items():
        theirs = config.rope_parameters["rope_theta"] if key == "rope_theta" else getattr(config, key)
        assert (list(theirs) if isinstance(value, list) else theirs) == value, key


@pytest.mark.parametrize(
    ("raw", "right", "wrong"),
    [
        ({"model_type": "qwen2"}, ["Qwen2ForCausalLM", "Qwen2Model"], ["Qwen2MoeForCausalLM", "LlamaForCausalLM"]),
        ({"model_type": "llama"}, ["LlamaForCausalLM"], ["LlamaForSequenceClassification", "OwnModelForCausalLM"]),
        (VISION, ["SiglipVisionModel", "SiglipForImageClassification"], ["Siglip2VisionModel", "Qwen2ForCausalLM"]),
        ({"model_type": "dinov2"}, ["Dinov2Model", "Dinov2Backbone"], ["Dinov2WithRegistersModel", "ViTModel"]),
        ({"model_type": "vit_mae"}, ["ViTMAEModel", "ViTMAEForPreTraining"], ["ViTModel"]),
        (llava(), ["LlavaForConditionalGeneration"], ["LlavaNextForConditionalGeneration", "Qwen2ForCausalLM"]),
    ],
    ids=lambda x: x.get("model_type") if isinstance(x, dict) else "",
)  # fmt: skip
def test_architectures_that_contradict_the_model_type(tmp_path, raw, right, wrong):
    want = hub.read_config(write(tmp_path, raw))
    for name in right:
        assert hub.read_config(write(tmp_path, raw | {"architectures": [name]})) == want
    for name in wrong:
        says = rf"'architectures' names {name}, but model_type '{raw['model_type']}' is read as a {right[0]}; correct"
        with pytest.raises(UserError, match=says):
            hub.read_config(write(tmp_path, raw | {"architectures": [name]}))


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


NEW = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA31 = RopeScaling("llama3", 8.0, 8192)


@pytest.mark.parametrize(
    ("raw", "scaling"),
    [
        ({"rope_parameters": {**NEW, "original_max_position_embeddings": 8192}}, LLAMA31),
        ({"rope_theta": 5e5, "rope_scaling": {**NEW, "original_max_position_embeddings": 8192}}, LLAMA31),
        ({"max_position_embeddings": 8192, "rope_scaling": NEW}, LLAMA31),
        ({"original_max_position_embeddings": 8192, "rope_parameters": NEW}, LLAMA31),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, RopeScaling("linear", 4.0)),
        ({"rope_scaling": {"type": "dynamic", "factor": 4}}, RopeScaling("dynamic", 4.0, 2048)),
        (
            {"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 512, "factor": None}},
            RopeScaling("yarn", 4.0, 512),
        ),
        (
            {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 2,
                    "attention_factor": 1.5,
                    "beta_fast": 16,
                    "beta_slow": None,
                }
            },
            RopeScaling("yarn", 2.0, 2048, beta_fast=16.0, attention_factor=1.5),
        ),
    ],
)
def test_rope_scaling(tmp_path, raw, scaling):
    """In the older and newer spelling, with what transformers fills in."""
    write(tmp_path, {"model_type": "llama", **raw})
    assert hub.read_config(tmp_path).decoder.rope_scaling == scaling
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    theirs.standardize_rope_params()  # as its models do
    assert theirs.rope_parameters["rope_type"] == scaling.rope_type
    if scaling.rope_type in ("llama3", "yarn"):
        assert theirs.rope_parameters["original_max_position_embeddings"] == scaling.original_max_position_embeddings


def test_heads_of_the_families(tmp_path):
    """Qwen3 has a head size of 128 where the file says none; Llama as many key heads as heads, Qwen2 32."""
    small = {"hidden_size": 512, "num_attention_heads": 64}
    found = {kind: hub.read_config(write(tmp_path, {"model_type": kind, **small})).decoder for kind in LANGUAGES}
    assert {kind: (cfg.head_width, cfg.kv_heads) for kind, cfg in found.items()} == {
        "qwen2": (8, 32), "qwen3": (128, 32), "llama": (8, 64),
    }  # fmt: skip
    assert {kind: (cfg.qkv_bias, cfg.qk_norm) for kind, cfg in found.items()} == {
        "qwen2": (True, False), "qwen3": (False, True), "llama": (False, False),
    }  # fmt: skip
    assert hub.read_config(write(tmp_path, {**TEXT, **small, "num_key_value_heads": None})).decoder.kv_heads == 64


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
        ({**TEXT, "layer_types": ["full_attention", "sliding_attention"]}, "'layer_types' has 'sliding_attention'"),
        (
            {**TEXT, "rope_scaling": {"type": "longrope", "factor": 4.0}},
            "asks for 'longrope' positions; supported: 'def",
        ),
        ({**TEXT, "rope_scaling": {"rope_type": "wavy"}}, "'rope_scaling' asks for 'wavy' positions"),
        ({**TEXT, "rope_parameters": {"rope_type": "linear"}}, "asks for 'linear' positions but lacks 'factor'"),
        ({**TEXT, "rope_parameters": {"rope_type": "linear", "factor": "2"}}, "has 'factor' '2'; expected a number"),
        (
            {**TEXT, "rope_parameters": {"rope_type": "linear", "factor": 0}},
            "rope_parameters: rope_type 'linear' has fac",
        ),
        ({**TEXT, "rope_scaling": {"type": "llama3", "factor": 8.0}}, "lacks 'low_freq_factor'"),
        ({**TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 3]}}, r"'mrope_section' is \[1, 2, 3\]"),
        ({**TEXT, "partial_rotary_factor": 0.5}, "'partial_rotary_factor' is 0.5; only whole heads"),
        ({"model_type": "qwen3", "attention_bias": True}, "'attention_bias' is True; only False"),
        ({"model_type": "qwen3", "use_sliding_window": True}, "'use_sliding_window' is True"),
        ({"model_type": "llama", "attention_bias": True}, "'attention_bias' is True; only False"),
        ({"model_type": "llama", "mlp_bias": True}, "'mlp_bias' is True; only False"),
        ({**TEXT, "hidden_size": "big"}, "'hidden_size' is 'big'; expected int"),
        ({**TEXT, "num_attention_heads": 0}, "'num_attention_heads' is 0; a model needs at least 1"),
        ({**VISION, "num_attention_heads": 0}, "'num_attention_heads' is 0; a model needs at least 1"),
        ({**VISION, "patch_size": -4}, "'patch_size' is -4; a model needs at least 1"),
        (
            {**TEXT, "num_attention_heads": 5, "num_key_value_heads": 2, "hidden_size": 20},
            "5 heads are no multiple of 2",
        ),
        ({**VISION, "image_size": [224, 384]}, "only squares"),
        ({**VISION, "num_channels": 1}, "'num_channels' is 1"),
        ({**VISION, "hidden_act": "relu"}, "'hidden_act' is 'relu'; supported: gelu_pytorch_tanh"),
        ({"model_type": "dinov2", "qkv_bias": False}, "'qkv_bias' is False; only True"),
        ({"model_type": "dinov2_with_registers", "num_register_tokens": 0}, "'num_register_tokens' is 0; .*'dinov2'"),
        ({"model_type": "vit", "pooler_act": "relu"}, "'pooler_act' is 'relu'"),
        ({"model_type": "vit", "pooler_output_size": 5}, "'pooler_output_size' is 5"),
        ({"model_type": "siglip2_vision_model", "num_patches": 250}, "'num_patches' is 250, no square"),
        (llava(vision_feature_select_strategy=None), "'default', which drops a patch of .*set 'full'"),
        (llava(vision={"model_type": "clip_vision_model"}), "takes the class token for a patch of .*set 'default'"),
        (llava(vision={"model_type": "dinov2"}), "'vision_config' is a 'dinov2', which LLaVA does not take"),
        (llava(vision_feature_layer=-3), "'vision_feature_layer' is -3"),
        (llava(vision_feature_layer=[-2, -5]), r"'vision_feature_layer' is \[-2, -5\]; expected int"),
        (llava(projector_hidden_act="silu"), "'projector_hidden_act' is 'silu'"),
        (llava(vision={"model_type": "swin"}), "'vision_config' has model_type 'swin'"),
        ({"model_type": "llava"}, "'vision_config' is None"),
        (
            {"model_type": "qwen2", "layer_types": ["full_attention"] * 7},
            "'layer_types' has 7 entries, num_hidden_layers is",
        ),
        ({"model_type": "qwen2", "quantization_config": {"bits": 4}}, "'quantization_config' is not supported; save"),
        (llava(quantization_config={"bits": 4}), "'quantization_config' is not supported; save"),
    ],
)
def test_unsupported_settings_are_errors(tmp_path, raw, message):
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
    hf.text_config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'qwen2' checkpoint is not a multimodal LLM"):
        _ = hub.read_config(tmp_path).mllm
