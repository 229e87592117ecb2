"""Checkpoints of LLaVA's own code: their config.json, encoders that are only named, projectors alone."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest
import torch
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import load_file, save_file

from pivot_jax import hub, rules
from pivot_jax.errors import UserError
from pivot_jax.models import zoo
from pivot_jax.train.initialization import initial_params
from tests.tiny import hf

TOWER = "google/siglip-tiny-patch8-24"
LEAVES = ("weight", "bias")


@pytest.fixture(autouse=True)
def known_tower(monkeypatch, whole):
    monkeypatch.setitem(zoo.VISION, TOWER, hub.read_config(whole).vision)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A LLaVA of transformers with a Qwen2: what the others are made of."""
    folder = tmp_path_factory.mktemp("whole")
    hf.llava_model(text=dict(tie_word_embeddings=False)).save_pretrained(folder)
    return folder


def theirs(key: str) -> str:
    key = re.sub(r"^vision_tower\.(vision_model\.)?", "model.vision_tower.vision_tower.vision_model.", key)
    for name, number in (("linear_1", "0"), ("linear_2", "2")):
        key = key.replace(f"multi_modal_projector.{name}", f"model.mm_projector.{number}")
    return key.removeprefix("language_model.")


def write(whole, folder, drop=r"(?!)", **changes):
    """The folder that LLaVA's code would have saved."""
    tensors = {theirs(key): value for key, value in load_file(whole / "model.safetensors").items()}
    tensors["model.image_newline"] = np.zeros(32, np.float32)
    save_file({key: value for key, value in tensors.items() if not re.search(drop, key)}, folder / "model.safetensors")
    text = json.loads((whole / "config.json").read_text())["text_config"]
    own = {
        **{"model_type": "llava_qwen", "architectures": ["LlavaQwenForCausalLM"], "mm_vision_tower": TOWER},
        **{"mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 24, "mm_vision_select_layer": -2},
        **{"image_aspect_ratio": "pad", "mm_patch_merge_type": "flat", "mm_tunable_parts": "mm_mlp_adapter"},
    }
    raw = {**text, **own, **changes}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))
    return folder


def same(a, b) -> None:
    a, b = rules.flatten(a), rules.flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


@pytest.mark.parametrize("tower", [TOWER, "/data/models/siglip-tiny-patch8-24"])
def test_whole_checkpoint(whole, tmp_path, tower):
    write(whole, tmp_path, mm_vision_tower=tower)
    assert hub.read_config(tmp_path).mllm == hub.read_config(whole).mllm
    same(hub.load_params(tmp_path), hub.load_params(whole))


def test_siglip_without_its_last_block(whole, tmp_path):
    """As LLaVA-NeXT saves it: one block less and no head, but the closing norm, which it does not use."""
    write(whole, tmp_path, drop=r"encoder\.layers\.2\.|vision_model\.head\.")
    found = hub.read_config(tmp_path)
    assert not found.final and found.mllm.vision.depth == 3
    same(hub.load_params(tmp_path), hub.load_params(whole, final=False))


def test_llama_with_the_older_model_type(tmp_path):
    hf.llava_model(text=dict(family="llama", tie_word_embeddings=False)).save_pretrained(tmp_path)
    (tmp_path / "own").mkdir()
    for kind in ("llava", "llava_llama"):
        write(tmp_path, tmp_path / "own", model_type=kind)
        same(hub.load_params(tmp_path / "own"), hub.load_params(tmp_path))


def test_encoder_that_is_only_named(whole, tmp_path):
    """Decoder and projector are read; the rest says where the encoder is to be had."""
    write(whole, tmp_path, drop="vision_tower")
    expected = hub.load_params(whole)
    for part in ("decoder", "projector"):
        same(hub.load_params(tmp_path, prefix=part), {part: expected[part]})
    message = f"'llava_qwen' checkpoint without the weights of its encoder; .*init.vision=hf:{TOWER}"
    for call in (lambda: hub.load_params(tmp_path), lambda: hub.read_config(tmp_path).mllm):
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(mm_vision_tower="google/siglip-tiny"),
            "is 'google/siglip-tiny', an encoder of unknown dimensions",
        ),
        (dict(mm_hidden_size=1152), f"'mm_hidden_size' is 1152, but '{TOWER}' has 24"),
        (dict(mm_projector_type="resampler"), "'mm_projector_type' is 'resampler'; supported: linear, mlp2x_gelu"),
        (dict(mm_vision_select_layer=-5), "'mm_vision_select_layer' is -5; only -2"),
        (dict(mm_vision_select_feature="cls_patch"), "'mm_vision_select_feature' is 'cls_patch'; only 'patch'"),
        (dict(mm_use_im_start_end=True), "'mm_use_im_start_end' is True; only False"),
        (dict(image_aspect_ratio="anyres_max_9"), "'image_aspect_ratio' asks for tiles"),
        (dict(mm_projector_type="linear"), r"'model.mm_projector.weight' \(our projector/fc1/kernel\) is missing"),
    ],
)
def test_unsupported_settings_are_errors(whole, tmp_path, changes, message):
    write(whole, tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        hub.load_params(tmp_path)


def projector(whole, path, layers: int = 2):
    tensors = {theirs(key): value for key, value in load_file(whole / "model.safetensors").items()}
    found = {key: value for key, value in tensors.items() if "mm_projector" in key}
    if layers == 1:
        found = {key.replace(".0.", "."): value for key, value in found.items() if ".0." in key}
    save_file(found, path)
    return path


def test_a_projector_alone_is_a_source_of_weights(whole, tmp_path):
    """As a file and as the folder of a stage, with a config.json that does not mention it."""
    expected = {"projector": hub.load_params(whole)["projector"]}
    path = projector(whole, tmp_path / "mm_projector.safetensors")
    (tmp_path / "config.json").write_text("{}")
    shapes = jax.eval_shape(lambda: expected)
    shardings = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), shapes)
    for file in (path, tmp_path):
        assert hub.summary(hub.read_config(file)) == "projector from width 24 to 32"
        same(hub.load_params(file), expected)
        same(initial_params({"projector": f"hf:{file}"}, lambda key: expected, jax.random.key(0), shardings), expected)
        with pytest.raises(UserError, match="has no parameters at 'vision'"):
            hub.load_params(file, prefix="vision")
        with pytest.raises(UserError, match="'projector' checkpoint is not a multimodal LLM"):
            _ = hub.read_config(file).mllm
    one = hub.load_params(projector(whole, tmp_path / "one.safetensors", layers=1))
    same(one, {"projector": {"fc1": expected["projector"]["fc1"]}})


def test_pickled_projectors_are_an_error_with_the_command_that_converts_them(whole, tmp_path):
    """The command runs unchanged."""
    import subprocess
    import sys

    good = projector(whole, tmp_path / "good.safetensors")
    tensors = {key: torch.tensor(value) for key, value in load_file(good).items()}
    folder = tmp_path / "stage1"
    folder.mkdir()
    torch.save(tensors, folder / "mm_projector.bin")
    for source in (folder, folder / "mm_projector.bin"):
        with pytest.raises(UserError, match="pickled weights are not read; convert them: python -c ") as error:
            hub.load_params(source)
    command = str(error.value).split("convert them: ")[1]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    same(hub.load_params(folder), hub.load_params(good))


def test_import_as_a_run(tmp_path):
    """Scaled positions, four projector layers and Llama's turns are in the run's config; its model opens with them."""
    from pivot_jax.cli.main import main
    from pivot_jax.data.processing.dialects import DIALECTS
    from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
    from pivot_jax.hub.chat import jinja
    from pivot_jax.train.open import open_run

    tokenizer = load_tokenizer(train_bpe(["what colour?"], 270, tmp_path / "tokenizer"))
    tokenizer.add_tokens(list(DIALECTS["llama3"].tokens), special_tokens=True)
    tokenizer.chat_template = jinja("Be brief.", dialect="llama3")
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 16}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    settings = dict(family="llama", tie_word_embeddings=False, vocab_size=len(tokenizer), rope_parameters=rope)
    hf.llava_model(text=settings).save_pretrained(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    write(tmp_path, own, model_type="llava_llama", mm_projector_type="mlp4x_gelu")
    tokenizer.save_pretrained(own)
    tensors = load_file(own / "model.safetensors")
    for number in (4, 6):
        tensors |= {f"model.mm_projector.{number}.{key}": tensors[f"model.mm_projector.2.{key}"] for key in LEAVES}
    save_file(tensors, own / "model.safetensors")
    assert main(["import-hf", "--folder", str(own), "--workdir", str(tmp_path / "run")]) == 0
    opened = open_run(tmp_path / "run")
    found, expected = opened.mllm.config, hub.read_config(own).mllm
    assert found.decoder == expected.decoder and found.decoder.rope_scaling.rope_type == "llama3"
    assert found.projector == expected.projector and found.projector.layers == 4
    assert (
        opened.processor.chat.template.dialect is DIALECTS["llama3"] and opened.config.tokenizer.system == "Be brief."
    )
    same(opened.params, hub.load_params(own))
