"""Dimensions by name: the parameter counts that the models are published with."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax import hub
from pivot_jax.errors import UserError
from pivot_jax.hub import names
from pivot_jax.hub.configs import sizes
from pivot_jax.hub.families import layout_of, text_of
from pivot_jax.models import zoo

# the tied head counted once
COUNTS = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B-Base": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    cfg = zoo.DECODERS[name]
    model = hub.HubModel(text_of(cfg).model_type, decoder=cfg)
    found, _ = names.entries(layout_of(model), sizes(model))
    assert sum(int(np.prod(entry.shape)) for entry in found) == COUNTS[name]


def test_families_by_name():
    for name, cfg in zoo.DECODERS.items():
        family = "llama" if "llama" in name or "SmolLM2" in name else "qwen3" if "Qwen3" in name else "qwen2"
        assert text_of(cfg).model_type == family
        assert cfg.rope_scaling.rope_type == ("llama3" if "Llama-3.1" in name or "Llama-3.2" in name else "default")
    base, chat = zoo.DECODERS["Qwen/Qwen2.5-32B"], zoo.DECODERS["Qwen/Qwen2.5-32B-Instruct"]
    assert (base.eps, chat.eps) == (1e-5, 1e-6)  # as their files have it


def section(**decoder):
    config = configs.base()
    configs.merge(config, {"model": {"decoder": decoder}})
    return config.model


SIGLIP = {"preset": "siglip"}


def test_scaling_in_a_config():
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.2}
    built = zoo.build(
        section(rope_scaling=scaling, mrope_section=[2, 3, 3], qk_norm=True), {"preset": "siglip"}
    ).decoder
    assert built.rope_scaling == zoo.RopeScaling("yarn", 4.0, 64, attention_factor=1.2)
    assert built.mrope_section == (2, 3, 3) and built.qk_norm
    with pytest.raises(UserError, match=r"model.decoder.rope_scaling: rope_type 'yarn' needs original_max"):
        zoo.build(section(rope_scaling={"rope_type": "yarn", "factor": 4.0}), SIGLIP)
    with pytest.raises(UserError, match=r"model.decoder: mrope_section \(1, 1, 1\) is not three"):
        zoo.build(section(mrope_section=(1, 1, 1)), SIGLIP)
    for values, message in (
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type: 'longrope' is not allowed"),
        ({"rope_scaling": {"factor": 0}}, "factor: 0.0 is not allowed; it must be above 0"),
        ({"mrope_section": (1, 2)}, "must be empty, or three whole numbers"),
    ):
        with pytest.raises(UserError, match=message):
            section(**values)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match=r"did you mean 'Qwen/Qwen2.5-1.5B.*'\?; there are: Qwen/Qwen2-0.5B, "):
        zoo.build(section(name="Qwen/Qwen2.5-1.5"), SIGLIP)


@pytest.mark.parametrize("family", ["siglip2_naflex", "qwen2_vl"])
def test_a_second_encoder_beside_one_of_variable_resolution_is_an_error(family):
    config = configs.base()
    images = {"preset": family, "max_patches": 16}
    configs.merge(config, {"model.vision.family": family, "model.second.kind": "vit", "data.image": images})
    with pytest.raises(
        UserError, match=f"model.second.kind: two encoders .*'{family}' reads variable-resolution images"
    ):
        zoo.build(config.model, config.data.image)


def test_a_name_leaves_the_padding_token_to_the_config():
    for name in ("", "Qwen/Qwen2.5-0.5B"):
        config = configs.load("", {"model.decoder.name": name, "model.decoder.padding_idx": 3})
        assert zoo.build(config.model, config.data.image).decoder.padding_idx == 3
