"""Qwen2-VL and Qwen2.5-VL folders: old and new spellings in, folders that transformers loads out, bit for bit."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from pivot_jax import config as configs
from pivot_jax import hub, rules
from pivot_jax.cli.main import main
from pivot_jax.data.processing import images
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.hub import adapter, families
from pivot_jax.models import lora, zoo
from pivot_jax.models.mllm import MLLM, head_matrix, init_params
from pivot_jax.train.open import open_run
from tests.parity import compare
from tests.tiny import hf, qwen

KINDS = {"qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL"}
CONFIGS = {"qwen2_vl": transformers.Qwen2VLConfig, "qwen2_5_vl": transformers.Qwen2_5_VLConfig}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    """A checkpoint with its tokenizer and processor file, as on the hub."""
    path = tmp_path_factory.mktemp(request.param)
    tokens = qwen.tokenizer(path)
    qwen.model(request.param, tokens, 1, text=dict(tie_word_embeddings=False)).save_pretrained(path)
    limits = {"min_pixels": 64, "max_pixels": 512, "patch_size": 4, "merge_size": 2}
    statistics = {"image_mean": images.CLIP_MEAN, "image_std": images.CLIP_STD}
    (path / "preprocessor_config.json").write_text(json.dumps(limits | statistics))
    return path


def same(first, second):
    first, second = rules.flatten(first), rules.flatten(second)
    assert first.keys() == second.keys()
    for path, leaf in first.items():
        np.testing.assert_array_equal(leaf, second[path], err_msg=path)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_transformers(kind):
    config = CONFIGS[kind]()
    for section, table in (
        (config.vision_config, families.qwen_vl.VISION_DEFAULTS[kind]),
        (config.text_config, families.qwen_vl.TEXT_DEFAULTS),
        (config, {f"{name}_token_id": value for name, value in families.qwen_vl.TOKENS.items()}),
    ):
        for key, value in table.items():
            theirs = section.rope_parameters["rope_theta"] if key == "rope_theta" else getattr(section, key, value)
            assert (list(theirs) if isinstance(theirs, tuple) else theirs) == value, key


def test_a_real_config(shared_data):
    found = hub.read_config(shared_data / "qwen2_5_vl_processor")
    name = "Qwen/Qwen2.5-VL-7B-Instruct"
    assert found.vision == zoo.VISION[name] and found.decoder == zoo.DECODERS[name]
    assert found.image_token_id == 151655 and found.image_around == (151652, 151653)
    index = json.loads((shared_data / "qwen2_5_vl_processor" / "model.safetensors.index.json").read_text())
    layout = families.layout_of(found)
    entries, _ = hub.names.entries(layout, hub.configs.sizes(found))
    assert {layout.canonical(key) for key in index["weight_map"]} == {key for entry in entries for key in entry.keys}


def test_the_zoo_has_the_shapes_of_the_files():
    for name, tower in zoo.VISION.items():
        if name.startswith("Qwen"):
            config = configs.base()
            configs.merge(config, {"model": {part: {"name": name} for part in ("vision", "decoder")}})
            configs.merge(config, {"data": {"image": {"preset": tower.family, "max_patches": 256}}})
            module = MLLM(zoo.build(config.model, config.data.image))
            shapes = jax.eval_shape(lambda key, module=module: init_params(module, key), jax.random.key(0))
            count = sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e9
            assert count == pytest.approx(float(name.split("-")[2 if "VL-" in name else 1][:-1]), rel=0.3), name


def test_memory_s_spelling_and_the_nested_config(folder, tmp_path):
    """transformers 5 in memory: model.visual, model.language_model; its own config.json has a text_config."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    assert any(key.startswith("model.visual.") for key in tensors)
    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert "text_config" in json.loads((folder / "config.json").read_text())
    same(hub.load_params(tmp_path), hub.load_params(folder))
    hf.rewrite(tmp_path, rename=lambda key: key.replace("patch_embed", "patch_embedding"))
    with pytest.raises(UserError, match=r"visual.patch_embed.proj.weight.*nearest"):
        hub.load_params(tmp_path)


def test_import_export_and_load_in_transformers(folder, tmp_path, capsys):
    """Through the command line: import-hf → a run that answers → export-hf → transformers, the same bits and logits."""
    main(["import-hf", "--folder", str(folder), "--workdir", str(tmp_path / "run")])
    run = open_run(tmp_path / "run")
    geometry = run.processor.geometry
    assert run.processor.chat.mrope and run.config.tokenizer.image_around == qwen.AROUND
    assert (geometry.most, geometry.min_pixels, geometry.max_pixels) == (32, 64, 512)
    main(["export-hf", "--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    same(hub.load_params(tmp_path / "out"), hub.load_params(folder))
    theirs, again = hub.read_config(folder), hub.read_config(tmp_path / "out")
    assert dataclass_with(again, video_token_id=theirs.video_token_id) == theirs  # its tokenizer has no such token
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    vocabulary, longest = load_tokenizer(folder).get_vocab(), theirs.decoder.max_positions
    assert written["video_token_id"] == vocabulary.get("<|video_pad|>", families.qwen_vl.TOKENS["video"])
    assert (
        written["max_position_embeddings"]
        == longest
        == transformers.AutoConfig.from_pretrained(folder).text_config.max_position_embeddings
    )

    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert type(model).__name__ == families.qwen_vl.CLASSES[theirs.model_type]
    before = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    tokens = load_tokenizer(tmp_path / "out")
    made, rows = qwen.processor(theirs.model_type, tokens), qwen.examples()
    inputs = qwen.theirs(made, rows)
    with torch.no_grad():
        np.testing.assert_array_equal(model(**inputs).logits.numpy(), before(**inputs).logits.numpy())

    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert tuple(processor.image_mean) == images.CLIP_MEAN and dict(processor.size)["longest_edge"] == 512
    content = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    text = tokens.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    assert "user\n<|vision_start|><|image_pad|><|vision_end|>How many?<|im_end|>" in text
    text = tokens.apply_chat_template([{"role": "user", "content": "<image>\nHow many?"}], tokenize=False)
    assert "user\n<|vision_start|><|image_pad|><|vision_end|>How many?<|im_end|>" in text


def test_bf16_checkpoint(folder, tmp_path):
    """Read as it is, and computed in bfloat16 within its rounding."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    found, params = hub.read_config(tmp_path), hub.load_params(tmp_path)
    for path, leaf in rules.flatten(hub.load_params(folder)).items():
        np.testing.assert_array_equal(leaf.astype(jnp.bfloat16).astype(jnp.float32), rules.flatten(params)[path])
    made, rows = qwen.processor(found.model_type, load_tokenizer(folder)), qwen.examples()
    mllm, batch = MLLM(dataclass_with(found.mllm, dtype="bfloat16")), qwen.batch(made, rows)
    hidden = jax.jit(lambda p, b: mllm.apply({"params": p}, b, method="hidden"))(params, batch)
    with torch.no_grad():
        states = model(**qwen.theirs(made, rows), output_hidden_states=True).hidden_states[-1].float().numpy()
    real = batch.segments > 0
    ours = np.asarray(hidden, np.float32)[real]
    compare(KINDS[found.model_type], "bfloat16", "last hidden state", ours, states[real], 0.15)
    with torch.no_grad():  # rounding takes us no farther from float32 than it takes them
        exact = model.float()(**qwen.theirs(made, rows), output_hidden_states=True).hidden_states[-1].numpy()[real]
    assert np.abs(ours - exact).mean() <= 1.25 * np.abs(states[real] - exact).mean()


def test_an_adapter_in_peft(folder, tmp_path):
    """LoRA on decoder, tower and merger computes in PEFT what it does here; a part of a fused layer is an error."""
    import peft

    found, params = hub.read_config(folder), hub.load_params(folder)
    kernels = {path: leaf.shape for path, leaf in rules.flatten(params).items()}
    mlp = "gate" if found.vision.windowed else "fc1"
    ranks = {f"{path}/kernel": 3 for path in ("decoder/blocks/attn/q", f"vision/blocks/mlp/{mlp}", "projector/fc2")}
    tree, rng = rules.flatten(lora.create(jax.random.key(0), kernels, ranks, 4.0, False)), np.random.default_rng(0)
    moved = {p: rng.normal(size=x.shape).astype(np.float32) for p, x in tree.items() if p.endswith(lora.B)}
    whole = rules.unflatten({**rules.flatten(params), **tree, **moved})
    adapter.write(whole, found, tmp_path / "lora", base=str(folder))
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "lora").eval()
    made, rows = qwen.processor(found.model_type, load_tokenizer(folder)), qwen.examples()
    batch, mllm = qwen.batch(made, rows), MLLM(found.mllm)
    logits = jax.jit(lambda p, b: mllm.apply({"params": p}, b, method="hidden") @ head_matrix(p).T)
    with torch.no_grad():
        theirs = loaded(**qwen.theirs(made, rows)).logits.numpy()
    real, ours = batch.segments > 0, np.asarray(logits(whole, batch))
    assert np.abs(ours - np.asarray(logits(params, batch)))[real].max() > 0.1
    compare(KINDS[found.model_type], "LoRA", "logits", ours[real], theirs[real])
    fused = {"vision/blocks/attn/q/kernel": 2}
    tree = rules.flatten(lora.create(jax.random.key(0), kernels, fused, 4.0, False))
    with pytest.raises(UserError, match="attn/q"):
        adapter.write(rules.unflatten({**rules.flatten(params), **tree}), found, tmp_path / "fused", base="")


def ids(found) -> hub.ExportText:
    return hub.ExportText(None, found.image_token_id, found.image_around, found.video_token_id)


def test_an_export_without_a_tokenizer_keeps_the_ids_of_the_import(folder, tmp_path):
    """Also where they are not Qwen's own; names of tokens cannot be looked up, and are an error."""
    found, params = hub.read_config(folder), hub.load_params(folder)
    own = dataclass_with(found, image_token_id=7, image_around=(3, 4), video_token_id=5)
    out = hub.export_qwen_vl(params, own.mllm, tmp_path / "own", text=ids(own))
    again = hub.read_config(out)
    assert (again.image_token_id, again.image_around, again.video_token_id) == (7, (3, 4), 5)
    for text, what in (
        (hub.ExportText(None, 7), r"token around an image '<\|vision_start\|>': an export without a tokenizer"),
        (hub.ExportText(None, 7, (3, 4)), r"video token '<\|video_pad\|>': an export without a tokenizer needs its id"),
        (hub.ExportText(None, 7, (3, 1 << 30), 5), "token around an image 1073741824 .* is not in the vocabulary"),
    ):
        with pytest.raises(UserError, match=what):
            hub.export_qwen_vl(params, own.mllm, tmp_path / "no", text=text)


def test_what_these_classes_cannot_hold(folder, tmp_path):
    found, params = hub.read_config(folder), hub.load_params(folder)
    with pytest.raises(UserError, match="export the whole model"):
        hub.export_encoder(params, found.mllm, tmp_path / "e")
    decoder = dataclass_with(found.decoder, mrope_section=())
    with pytest.raises(UserError, match="has M-RoPE"):
        hub.export_qwen_vl(params, dataclass_with(found.mllm, decoder=decoder), tmp_path / "m", text=ids(found))
    raw = json.loads((folder / "config.json").read_text())
    for section, key, value, match in (
        ("vision_config", "spatial_merge_size", 3, "only 2"),
        ("vision_config", "in_channels", 1, "only 3"),
        ("vision_config", "hidden_act", "relu", "supported"),
        ("text_config", "use_sliding_window", True, "use_sliding_window"),
        ("vision_config", "fullatt_block_indexes", [1, 7], r"'fullatt_block_indexes' is \[1, 7\], of \d blocks"),
    ):
        if key == "fullatt_block_indexes" and not found.vision.windowed:
            continue
        changed = {**raw, section: {**raw[section], key: value}}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=match):
            hub.read_config(tmp_path)


def dataclass_with(value, **changes):
    import dataclasses

    return dataclasses.replace(value, **changes)
