"""A model with a chat template of its own: imported, trained, asked, ranked, resumed, exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import decoders, pre_tokenizers

from pivot_jax import config as configs
from pivot_jax import hub
from pivot_jax.data.example import Example, Message
from pivot_jax.data.loading.loader import build_loader
from pivot_jax.data.processing.template import Format, Template
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.rl.parts import sampling_of
from pivot_jax.train import hub_import
from pivot_jax.train.open import load, open_run
from pivot_jax.train.run import run as train
from pivot_jax.train.setup import build_setup
from tests.tiny import chat_templates as templates
from tests.tiny import commands, hf
from tests.train.conftest import source

IMAGE = "<|image_pad|>"
SPECIAL = {"bos_token": "<bos>", "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>", IMAGE]}


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory) -> Path:
    """A LLaVA folder whose tokenizer has a template in the style of Gemma's."""
    out = tmp_path_factory.mktemp("gemma") / "hf"
    tokenizer = load_tokenizer(world / "tokenizer")
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.chat_template = templates.GEMMA
    hf.llava_model(text=dict(vocab_size=len(tokenizer))).save_pretrained(out)
    hf.rewrite(out, config={"image_token_index": tokenizer.convert_tokens_to_ids(IMAGE)})
    tokenizer.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def imported(folder) -> Path:
    out = folder.parent / "imported"
    assert commands.run("import-hf", "--folder", folder, "--workdir", out) == 0
    return out


def trained_config(imported: Path, world: Path, **changes):
    """The import's config for two steps on the rows of ``world``."""
    config = configs.from_json((imported / "config.json").read_text())
    changes = {
        "data": {"sources": (source(world, "llava"),), "batch_size": 4, "max_length": 96},
        "train": {"steps": 2, "log_every": 1}, **changes,
    }  # fmt: skip
    configs.merge(config, changes)
    configs.validate(config)
    return config


@pytest.fixture(scope="module")
def sft(imported, world) -> Path:
    out = imported.parent / "sft"
    train(trained_config(imported, world), out)
    return out


def test_an_import_takes_the_folders_template(imported):
    words = configs.from_json((imported / "config.json").read_text()).tokenizer
    assert (words.chat, words.system, words.chat_template, words.image_token) == ("template", "", "", IMAGE)
    assert load_tokenizer(imported / "tokenizer").chat_template == templates.GEMMA


def test_training_answers_and_sampling_end_at_the_templates_token(sft, world, make_config):
    assert [json.loads(line)["step"] for line in (sft / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    opened = open_run(sft)
    chat = opened.processor.chat
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_id) == "<end_of_turn>"
    assert sampling_of(make_config().rl, opened.processor).stop_ids == (chat.end_id,)
    image = str(world / "0.png")
    assert isinstance(opened.chat("What colour?", [image], max_new_tokens=3), str)
    question = Example("q", (Message("user", "<image>\nWhat colour?"),), (image,))
    (row,) = opened.logprobs([Example("q", (*question.messages, Message("assistant", "red")), (image,))])
    assert chat.tokenizer.decode(row.tokens) == "red<end_of_turn>"
    options = ["red", "blue", "dark green"]
    sums, counts = opened.answerer(2).option_logps([question] * 3, [options] * 3)
    np.testing.assert_allclose(sums[0, 0], row.logps.sum(), rtol=1e-4)
    assert counts[0].tolist() == [len(chat.tokenizer(text)["input_ids"]) + 1 for text in options]


def test_preference_pairs_train(sft, imported, world):
    changes = {"objective": {"name": "dpo"}, "init": {"": f"run:{sft}"}}
    config = trained_config(imported, world, **changes)
    configs.merge(config, {"data.sources": (source(world, "next_dpo"),)})
    out = imported.parent / "dpo"
    result = train(config, out)
    assert result.step == 2 and np.isfinite(result.metrics["loss"])


def test_an_export_has_the_same_template(sft, folder, tmp_path):
    assert commands.run("export-hf", "--workdir", sft, "--out", tmp_path / "hf") == 0
    assert commands.run("export-hf", "--workdir", sft, "--what", "decoder", "--out", tmp_path / "decoder") == 0
    for out in ("hf", "decoder"):
        assert (tmp_path / out / "chat_template.jinja").read_text() == templates.GEMMA
    assert load(f"hf:{tmp_path / 'hf'}").config.tokenizer.chat == "template"


def test_a_folder_without_a_template_says_so_at_its_import(folder, tmp_path, capsys):
    """And with its file it is imported; the file need not stay where it was."""
    bare, file = shutil.copytree(folder, tmp_path / "bare"), tmp_path / "own.jinja"
    (bare / "chat_template.jinja").unlink()
    file.write_text(templates.ZEPHYR.replace("eos_token", "'<end_of_turn>'"))
    fix = "(--config.tokenizer.chat_template=FILE; for import-hf: --chat-template FILE)"
    for template, words in ((None, "has no chat template"), (templates.LLAVA, "no special token after an answer")):
        if template is not None:
            (bare / "chat_template.jinja").write_text(template.replace("<image>", IMAGE))
        with pytest.raises(UserError, match=words) as error:
            load(f"hf:{bare}")
        assert str(bare) in str(error.value) and fix in str(error.value)
        assert commands.run("import-hf", "--folder", bare, "--workdir", tmp_path / "run") == 1
        assert words in capsys.readouterr().err and not (tmp_path / "run").exists()
    argv = ("import-hf", "--folder", bare, "--workdir", tmp_path / "run", "--chat-template", file)
    assert commands.run(*argv) == 0
    text = file.read_text()
    file.unlink()
    assert open_run(tmp_path / "run").processor.chat.tokenizer.chat_template == text


def test_a_dialect_that_the_tokenizer_cannot_write_is_imported_as_a_template(folder):
    """ChatML whose newline is two tokens, as in Llama 2's vocabulary; and a tokenizer without the image token."""
    chatml = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    chatml += "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = chatml
    assert hub.dialect_and_system(tokenizer) == ("chatml", "")
    for image in (IMAGE, "<|no_such_token|>"):
        assert hub_import._turns(folder, tokenizer, image, ("chatml", "")) == ("chatml", "")
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
            backend.pre_tokenizer,
        ]
    )
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("\u2581", " ")])
    with pytest.raises(UserError, match=r"a newline is \d tokens, .* set tokenizer.chat='template'"):
        Template(tokenizer, Format(image_token=IMAGE))
    for image in (IMAGE, "<|no_such_token|>"):
        assert hub_import._turns(folder, tokenizer, image, ("chatml", "")) == ("template", "")


def test_a_resumed_run_keeps_its_template(imported, world, tmp_path):
    """The file has changed since; another run with it has other rows."""
    file = tmp_path / "own.jinja"
    file.write_text(templates.GEMMA)
    config = trained_config(imported, world, tokenizer={"chat_template": str(file)})
    configs.merge(config, {"train.steps": 1})
    train(config, tmp_path / "run")
    file.write_text(templates.GEMMA.replace("'<start_of_turn>' + (", "'<start_of_turn>so ' + ("))
    resumed, fresh = (build_setup(config, folder) for folder in (tmp_path / "run", None))
    assert resumed.loader.processor.chat.tokenizer.chat_template == templates.GEMMA
    assert "so " in fresh.loader.processor.chat.tokenizer.chat_template
    assert resumed.loader.fingerprint() != fresh.loader.fingerprint()


def test_rows_that_the_template_cannot_write_are_skipped_and_named(imported, world, tmp_path):
    rows = json.loads((world / "chat.json").read_text())
    rows[3]["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    (tmp_path / "chat.json").write_text(json.dumps(rows))
    config = trained_config(imported, world)
    path = {"format": "llava", "path": str(tmp_path / "chat.json"), "image_root": str(world)}
    configs.merge(config, {"data.sources": (path,), "data.max_bad_share": 0.5})
    processor = open_run(imported).training_processor("sft")
    build_loader(config, processor, workdir=tmp_path)
    (skipped,) = map(json.loads, (tmp_path / "skipped.jsonl").read_text().splitlines())
    assert skipped["id"] == rows[3]["id"] and "the chat template has no system turn" in skipped["reason"]
