"""A weight source of the right shapes that is another model than the config's."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pivot_jax import hub
from pivot_jax.cli import main as cli
from pivot_jax.errors import UserError
from pivot_jax.models.rotary import RopeScaling
from pivot_jax.train import compatibility, initialization
from pivot_jax.train.open import open_encoder
from tests.tiny import hf


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hf")
    for kind in ("siglip_vision_model", "clip_vision_model", "dinov2_with_registers"):
        hf.save(hf.encoder(kind), root / kind)
    for family in ("qwen2", "qwen3"):
        hf.save(hf.text_model(family=family), root / family)
    return root


@pytest.mark.parametrize(
    ("part", "name", "changes", "fix"),
    [
        ("vision", "clip_vision_model", {"activation": "gelu"}, "model.vision.activation=quick_gelu"),
        ("vision", "dinov2_with_registers", {"registers": 0}, "model.vision.registers=4"),
        ("vision", "siglip_vision_model", {"heads": 4}, "model.vision.heads=3"),
        ("vision", "siglip_vision_model", {"family": "siglip2_naflex"}, "model.vision.family=siglip"),
        ("decoder", "qwen2", {"heads": 2, "kv_heads": 1}, "model.decoder.heads=4, model.decoder.kv_heads=2"),
        ("decoder", "qwen2", {"qkv_bias": False}, "model.decoder.qkv_bias=true"),
        ("decoder", "qwen3", {"qk_norm": False}, "model.decoder.qk_norm=true"),
    ],
)
def test_another_model_of_the_same_shapes_is_rejected(folders, part, name, changes, fix):
    source, own = f"hf:{folders / name}", getattr(hub.read_config(folders / name), part)
    message = f"the {part} of .*{name} is another model than this config's.*; set .*{fix}"
    for init in ({part: source}, {"": source}, {part: f"{source}:{part}"}):
        assert compatibility.check(init, {part: own}) == []
        with pytest.raises(UserError, match=message):
            compatibility.check(init, {part: replace(own, **changes)})


def test_differences_that_are_allowed_are_reported(folders):
    own = hub.read_config(folders / "qwen2").decoder
    other = replace(own, rope_theta=5e5, rope_scaling=RopeScaling("linear", 2.0), remat="full", mrope_section=(1, 1, 2))
    lines = compatibility.check({"decoder": f"hf:{folders / 'qwen2'}"}, {"decoder": other})
    assert [line.split("made with ")[1] for line in lines] == [
        "rope_theta 10000.0; this config sets 500000.0",
        "rope_scaling default; this config sets linear (factor 2)",
    ]


def test_a_pack_of_a_language_model(folders, tmp_path):
    """It says nothing about images."""
    pack = tmp_path / "odd: a@2"
    assert cli.main(["import-hf", "--folder", str(folders / "qwen2"), "--workdir", str(pack)]) == 0
    own = hub.read_config(folders / "qwen2").decoder
    assert compatibility.check({"decoder": f"pack:{pack}"}, {"decoder": own}) == []
    with pytest.raises(UserError, match="set model.decoder.heads=4"):
        compatibility.check({"decoder": f"pack:{pack}"}, {"decoder": replace(own, heads=2)})
    with pytest.raises(UserError, match="holds no vision encoder"):
        open_encoder(f"pack:{pack}")


def test_another_image_preprocessing_is_reported(folders):
    own = hub.read_config(folders / "siglip_vision_model").vision
    (line,) = compatibility.check(
        {"vision": f"hf:{folders / 'siglip_vision_model'}"}, {"vision": replace(own, preset="clip", mean=(0.4,) * 3)}
    )
    assert line.endswith("was made with preset siglip; this config sets clip")


def test_parts_without_a_source_are_not_compared(folders):
    own = hub.read_config(folders / "qwen2").decoder
    init = {"decoder/blocks": f"hf:{folders / 'qwen3'}", "projector": "pack:no/such"}
    assert compatibility.check(init, {"decoder": own, "second": None}) == []


def test_missing_biases_name_their_key_only_if_the_source_has_a_language_model(folders):
    like = {"decoder/blocks/attn/k/bias": SimpleNamespace(shape=(2, 16))}
    fix = "set model.decoder.qkv_bias=false"
    with pytest.raises(UserError, match=fix):
        initialization.check({"decoder": f"hf:{folders / 'qwen3'}"}, like)
    with pytest.raises(UserError, match="has no parameter") as error:
        initialization.check({"decoder": f"hf:{folders / 'siglip_vision_model'}"}, like)
    assert fix not in str(error.value)
