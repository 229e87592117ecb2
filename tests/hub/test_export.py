"""Exported folders: bitwise back to us, the same function in transformers, whole or not at all."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import transformers

from pivot_jax import hub, rules
from pivot_jax.data.example import Message
from pivot_jax.data.processing.batch import PromptBatch
from pivot_jax.data.processing.dialects import DIALECTS
from pivot_jax.data.processing.geometry import Square
from pivot_jax.data.processing.template import Format, Template
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.errors import UserError
from pivot_jax.hub import chat
from pivot_jax.models.language_model import LanguageModel, LanguageModelConfig
from pivot_jax.models.mllm import MLLM, MLLMConfig
from tests.tiny import chat_templates, hf, rollouts

IDS = hub.ExportText(image_token=hf.IMAGE_TOKEN)
SHAPES = {
    "tied": {},
    "CLIP tower": dict(vision=dict(kind="clip_vision_model")),
    "untied, odd sizes": dict(
        vision=dict(hidden_size=20, num_attention_heads=5, image_size=37, patch_size=7, vision_use_head=False),
        text=dict(tie_word_embeddings=False, num_attention_heads=6, num_key_value_heads=3, head_dim=10),
    ),
}


def same(a, b) -> None:
    a, b = rules.flatten(a), rules.flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


def without_final(params):
    return {**params, "vision": {key: value for key, value in params["vision"].items() if key != "final"}}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """An imported LLaVA: (params, configuration)."""
    folder = tmp_path_factory.mktemp("start")
    hf.llava_model(seed=1).save_pretrained(folder)
    return hub.load_params(folder), hub.read_config(folder).mllm


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    found = load_tokenizer(train_bpe(["what colour is the circle? red", "how many? three"], 270, folder))
    found.add_tokens(list(DIALECTS["llama3"].tokens), special_tokens=True)
    return found


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("final", [True, False], ids=["whole", "last block left out"])
def test_import_export_import_is_bitwise(tmp_path, changes, final):
    hf.llava_model(**changes).save_pretrained(tmp_path / "hf")
    cfg, params = hub.read_config(tmp_path / "hf").mllm, hub.load_params(tmp_path / "hf", final=final)
    if not final:
        cfg = dataclasses.replace(cfg, vision=dataclasses.replace(cfg.vision, pool_head=False))
    hub.export_mllm(params, cfg, tmp_path / "llava", text=IDS)
    hub.export_encoder(params, cfg, tmp_path / "vision", drop_last=not final)
    hub.export_decoder(params, cfg, tmp_path / "decoder")
    assert hub.read_config(tmp_path / "llava").mllm == cfg
    same(hub.load_params(tmp_path / "llava"), params)
    for part in ("vision", "decoder"):
        assert getattr(hub.read_config(tmp_path / part), part) == getattr(cfg, part)
        same(hub.load_params(tmp_path / part), {part: params[part]})


def test_shards_and_half_precision(start, tmp_path, monkeypatch):
    params, cfg = start
    monkeypatch.setattr(hub.save, "SHARD_BYTES", 20_000)
    hub.export_mllm(params, cfg, tmp_path / "many", text=IDS)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = sorted(p.name for p in (tmp_path / "many").glob("*.safetensors"))
    assert files == sorted(set(index["weight_map"].values())) and len(files) > 3
    same(hub.load_params(tmp_path / "many"), params)
    transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "many")
    hub.export_decoder(params, cfg, tmp_path / "half", hub.ExportOptions("bfloat16"))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto")
    assert model.dtype == torch.bfloat16
    with pytest.raises(UserError, match="dtype 'int8' is unknown"):
        hub.export_decoder(params, cfg, tmp_path / "none", hub.ExportOptions("int8"))


def test_encoder_in_transformers(start, tmp_path):
    """Whole: states and pooled output; without the last block: the features are the last state."""
    params, cfg = start
    vision = cfg.vision
    with pytest.raises(UserError, match=r"hold no vision/final .*; drop_last \(--drop-last\) writes one of 2 layers"):
        hub.export_encoder(without_final(params), cfg, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    hub.export_encoder(params, cfg, tmp_path / "whole", hub.ExportOptions(note="From a test."))
    hub.export_encoder(params, vision, tmp_path / "dropped", drop_last=True)
    images = np.random.default_rng(0).normal(size=(1, 24, 24, 3)).astype(np.float32)
    features = jax.jit(lambda p: MLLM(cfg).apply({"params": p}, images[:, None], method="encode_images"))(params)
    for name, layer, depth in (("whole", -2, 3), ("dropped", -1, 2)):
        model = transformers.SiglipVisionModel.from_pretrained(tmp_path / name)
        with torch.no_grad():
            out = model(torch.tensor(images).permute(0, 3, 1, 2), output_hidden_states=True)
        assert len(model.encoder.layers if hasattr(model, "encoder") else model.vision_model.encoder.layers) == depth
        assert hf.max_gap(features, out.hidden_states[layer]) <= 1e-4
        card = (tmp_path / name / "README.md").read_text()
        assert f"hidden_states[{layer}]" in card and ("From a test." in card) == (name == "whole")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "whole")
    image = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    assert processor(image, return_tensors="np")["pixel_values"].shape == (1, 3, 24, 24)


@pytest.fixture(scope="module")
def talker(tokenizer, tmp_path_factory):
    """A LLaVA with the tokenizer's vocabulary: (params, configuration)."""
    folder = tmp_path_factory.mktemp("talker")
    text = dict(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    hf.llava_model(seed=5, text=text).save_pretrained(folder)
    return hub.load_params(folder), hub.read_config(folder).mllm


@pytest.mark.parametrize("final", [True, False], ids=["whole", "last block left out"])
def test_mllm_in_transformers_gives_our_greedy_tokens(talker, tokenizer, tmp_path, final):
    """The folder alone is enough for a PyTorch user: processor, chat template, model, generate."""
    params, cfg = talker
    out = hub.export_mllm(
        params if final else without_final(params), cfg, tmp_path / "out", text=hub.ExportText(tokenizer)
    )
    model = transformers.LlavaForConditionalGeneration.from_pretrained(out)
    processor = transformers.AutoProcessor.from_pretrained(out)
    image = np.random.default_rng(2).integers(0, 255, (cfg.vision.image_size,) * 2 + (3,), dtype=np.uint8)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what colour is the circle?"}]}
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|image_pad|>\n"
        "what colour is the circle?<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    tokens = inputs["input_ids"].numpy().astype(np.int32)
    is_image = tokens == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert is_image.sum() == cfg.vision.patches
    with torch.no_grad():
        theirs = model.generate(**inputs, max_new_tokens=12)[0, tokens.shape[1] :].tolist()
    row = dataclasses.replace(
        rollouts.row("row", tokens[0], image=image), image_slots=_prompt(image, tokens, is_image).image_slots[0]
    )
    made = rollouts.processor(Square("siglip", cfg.vision.image_size, cfg.vision.patches))
    ours = rollouts.greedy(MLLM(cfg), params, [rollouts.prompt(0, row)], 12, made, (tokenizer.eos_token_id,))[0]
    assert theirs in (ours, [*ours, tokenizer.eos_token_id]) and len(set(theirs)) > 1


def _prompt(image, tokens, is_image) -> PromptBatch:
    slots = np.where(is_image, np.cumsum(is_image, axis=1) - 1, -1).astype(np.int32)
    positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
    return PromptBatch(image[None, None], tokens, slots, positions, np.ones_like(tokens), np.zeros(1, np.int32))


def test_clip_tower_in_transformers_llava(tokenizer, tmp_path):
    """The processor counts no class token, the model drops it; a resized position table is an error."""
    text, vision = dict(vocab_size=len(tokenizer)), dict(kind="clip_vision_model")
    hf.llava_model(seed=6, text=text, vision=vision).save_pretrained(tmp_path / "in")
    params, cfg = hub.load_params(tmp_path / "in"), hub.read_config(tmp_path / "in").mllm
    out = hub.export_mllm(params, cfg, tmp_path / "out", text=hub.ExportText(tokenizer))
    model = transformers.LlavaForConditionalGeneration.from_pretrained(out)
    processor = transformers.AutoProcessor.from_pretrained(out)
    image = np.random.default_rng(2).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    inputs = processor(images=[image], text=["<|image_pad|>\nhow many?"], return_tensors="pt")
    tokens = inputs["input_ids"].numpy().astype(np.int32)
    is_image = tokens == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert is_image.sum() == cfg.vision.patches == 9
    with torch.no_grad():
        theirs = model(**inputs, output_hidden_states=True).hidden_states[-1]
    prompt = _prompt(image, tokens, is_image)
    ours = jax.jit(lambda params: MLLM(cfg).apply({"params": params}, prompt, method="hidden"))(params)
    assert hf.max_gap(ours, theirs) <= 1e-4
    larger = dataclasses.replace(cfg, vision=cfg.vision.resized(40))
    with pytest.raises(
        UserError, match="table of 3x3 positions is resized to 5x5, which Hugging Face's LLaVA does not do"
    ):
        hub.export_mllm(params, larger, tmp_path / "no", text=hub.ExportText(tokenizer))


def test_llava_cannot_hold_features_after_a_norm(start, tmp_path):
    params, cfg = start
    vision = dataclasses.replace(cfg.vision, family="dinov2")
    with pytest.raises(UserError, match="takes no features of a 'dinov2' encoder as we do; export its parts instead"):
        hub.export_mllm(params, dataclasses.replace(cfg, vision=vision), tmp_path / "no", text=IDS)


CONVERSATIONS = {
    "question": [("user", "<image>\nwhat colour?")],
    "own system turn": [("system", "Say {{ less }}."), ("user", "how many?")],
    "several turns": [("user", "<image>\nhow <image>?"), ("assistant", " \n\r\n three\n\n"), ("user", "  so?\n")],
    "answered": [("user", "how many?"), ("assistant", "  three")],
    "blank answer": [("user", "how many?"), ("assistant", " \n ")],
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("system", ["You are a helpful assistant.", "", 'It\'s "a" {{ b }}\\n %}\nc \U0001f600'])
@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_exported_chat_template_renders_what_ours_does(tokenizer, tmp_path, dialect, system, turns):
    """With a system text, without one, and with one full of quotes: text and token ids."""
    ours = Template(tokenizer, Format(system=system, dialect=dialect))
    messages, counts = [Message(*turn) for turn in turns], [1] * sum(text.count("<image>") for _, text in turns)
    theirs = [{"role": role, "content": text} for role, text in turns]
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(chat.jinja(system, "<|image_pad|>", dialect))
    loaded = load_tokenizer(tmp_path)
    for prompt in (True, False):
        ids = (ours.prompt(messages, counts) if prompt else ours._turns(messages, iter(counts))).ids
        text = loaded.apply_chat_template(theirs, tokenize=False, add_generation_prompt=prompt)
        assert text == tokenizer.decode(ids)
        assert loaded(text, add_special_tokens=False)["input_ids"] == ids
    if system == "" and turns[0][0] == "user":
        assert tokenizer.decode(ids).startswith(ours.dialect.first + ours.dialect.opening("user"))
    assert hub.dialect_and_system(loaded) == (dialect, system)


def test_both_kinds_of_export_take_the_dialect(talker, tokenizer, tmp_path):
    params, cfg = talker
    theirs, system = [{"role": "user", "content": "how many?"}], "Be brief."
    text = hub.ExportText(tokenizer, system=system, dialect="llama3")
    hub.export_mllm(params, cfg, tmp_path / "mllm", text=text)
    hub.export_decoder(params, cfg, tmp_path / "decoder", text=text)
    form = DIALECTS["llama3"]
    expected = form.first + form.turn("system", system) + form.turn("user", "how many?") + form.opening("assistant")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "mllm")
    for loaded in (processor, load_tokenizer(tmp_path / "mllm"), load_tokenizer(tmp_path / "decoder")):
        assert loaded.apply_chat_template(theirs, tokenize=False, add_generation_prompt=True) == expected


OLDER = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] }}{% endfor %}"
QWEN = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}{%- endif %}{%- for m in messages %}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
ITEMS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% for i in m.content | selectattr('type', 'equalto', "
    "'text') %}{{ i.text }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}{{ '<|im_start|>assistant\\n' }}"
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (QWEN, ("chatml", "You are Qwen.")),
        (ITEMS, ("chatml", "")),
        (chat_templates.LLAMA3, ("llama3", "")),
        (OLDER, None),
        ("{{ raise_exception('no') }}", None),
        ("{% if", None),
    ],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["the tokenizer's", "chat_template.json"])
def test_dialect_and_system_text_of_a_folder(tokenizer, tmp_path, template, expected, legacy):
    """Found by rendering a question, whatever the template looks like; None where it is not one of our dialects."""
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    if legacy:
        (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    else:
        (tmp_path / "chat_template.jinja").write_text(template)
    assert hub.dialect_and_system(load_tokenizer(tmp_path)) == expected


def test_decoder_in_transformers_gives_our_greedy_tokens(talker, tokenizer, tmp_path):
    params, cfg = talker
    out = hub.export_decoder(params, cfg, tmp_path / "out", text=hub.ExportText(tokenizer))
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokens = transformers.AutoTokenizer.from_pretrained(out)("how many circles?", return_tensors="np")["input_ids"]
    tokens = tokens.astype(np.int32)
    with torch.no_grad():
        theirs = model.generate(torch.tensor(tokens, dtype=torch.long), max_new_tokens=12)[
            0, tokens.shape[1] :
        ].tolist()
    prompt = rollouts.prompt(0, rollouts.row("row", tokens[0]))
    model = LanguageModel(LanguageModelConfig(cfg.decoder))
    ours = rollouts.greedy(model, params, [prompt], 12, ends=(tokenizer.eos_token_id,))[0]
    assert theirs in (ours, [*ours, tokenizer.eos_token_id])


def test_projectors_and_models_that_do_not_fit(start, tokenizer, tmp_path):
    params, cfg = start
    out = tmp_path / "out"
    for changes, message in (
        (dict(projector=dataclasses.replace(cfg.projector, layers=2, reused=2)), "2 projector layers, this model 4"),
        (
            dict(decoder=dataclasses.replace(cfg.decoder, mlp_dim=41)),
            r"mlp/gate/kernel' has shape \[2, 32, 40\], expected",
        ),
        (dict(decoder=dataclasses.replace(cfg.decoder, tied=False)), "hold no 'decoder/head'"),
        (
            dict(decoder=dataclasses.replace(cfg.decoder, qkv_bias=False)),
            r"attn/./bias' is not a parameter of a",
        ),
        (dict(decoder=dataclasses.replace(cfg.decoder, qk_norm=True)), "no family of Hugging Face has both"),
        (dict(vision=dataclasses.replace(cfg.vision, pool_head=False)), "'vision/final/pool/.*' is not a parameter"),
    ):
        with pytest.raises(UserError, match=message):
            hub.export_mllm(params, dataclasses.replace(cfg, **changes), out, text=IDS)
    for token, given in (("<|image_pad|>", None), ("<nothing>", tokenizer), (10_000, None)):
        with pytest.raises(UserError, match="image token"):
            hub.export_mllm(params, cfg, out, text=hub.ExportText(given, token))
    with pytest.raises(UserError, match=r"hold no 'vision' \(there is: decoder\)"):
        hub.export_encoder({"decoder": params["decoder"]}, cfg, out)
    assert not list(tmp_path.iterdir())


def test_reuse_1_plus_1_is_a_two_layer_projector(start, tmp_path):
    params, cfg = start
    reused = dataclasses.replace(cfg, projector=dataclasses.replace(cfg.projector, layers=1, reused=1))
    assert isinstance(reused, MLLMConfig)
    hub.export_mllm(params, reused, tmp_path / "out", text=IDS)
    same(hub.load_params(tmp_path / "out"), params)


def test_a_full_disk_leaves_the_old_folder_as_it_was(start, tmp_path, monkeypatch):
    params, cfg = start
    out = hub.export_decoder(params, cfg, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(UserError, match=r"is not empty; choose another folder, or add --overwrite"):
        hub.export_decoder(params, cfg, out)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for call in ("hub.tensors.os.pwrite", "hub.folder.json.dumps", "files.json.dumps"):
        with monkeypatch.context() as patch:
            patch.setattr(f"pivot_jax.{call}", full)
            with pytest.raises(
                UserError, match=r"out could not be written \(No space left on device\); free disk space"
            ):
                hub.export_decoder(params, cfg, out, hub.ExportOptions(overwrite=True))
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
        assert [p.name for p in tmp_path.iterdir()] == ["out"], "a partial folder was left"
    hub.export_decoder(params, cfg, out, hub.ExportOptions("bfloat16", overwrite=True))
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; choose another folder"):
        hub.export_decoder(params, cfg, tmp_path / "file")
