"""The public API: what `import pivot_jax` costs, what `load` opens, and what an opened model does."""

from __future__ import annotations

import inspect
import json
import os
import pydoc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pivot_jax as pj
from pivot_jax.data.processing.tokenizer import train_bpe
from pivot_jax.models import zoo
from pivot_jax.train.open import OpenEncoder, OpenLanguageModel, OpenModel
from tests.tiny import hf

ROOT = Path(__file__).parents[1]
TEXTS = ["what colour is the circle? red", "how many? three"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A LLaVA folder, its parts as folders, and all of them imported."""
    return hf.parts_and_imports(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def model(sources):
    return pj.load(f"hf:{sources / 'whole'}")


def image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, pivot_jax; dir(pivot_jax); print({'jax', 'transformers', 'numpy'} & {*sys.modules} or 'nothing')"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "nothing"


def test_every_public_name_is_documented_and_resolves():
    for name in pj._PUBLIC:
        assert (getattr(pj, name) is not None and f"``{name}``" in pj.__doc__) or name == "Message"
    assert callable(pj.train) and callable(pj.config) and pj.train.run and pj.config.base
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pj.nothing


def test_packages_that_can_be_called_have_the_signatures_of_their_functions():
    assert list(inspect.signature(pj.train).parameters) == ["config", "workdir", "hooks"]
    assert list(inspect.signature(pj.config).parameters) == ["spec", "overrides"]


def test_help_shows_the_signature_of_a_package_that_can_be_called():
    shown = pydoc.render_doc(pj.train, renderer=pydoc.plaintext)
    assert "train(config: 'Any', workdir: 'Path | str', hooks:" in shown and "resumes from its newest" in shown
    assert "config(spec: 'str' = ''" in pydoc.render_doc(pj.config, renderer=pydoc.plaintext)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("hf:{}/whole", OpenModel), ("run:{}/whole_here", OpenModel), ("hf:{}/encoder", OpenEncoder),
        ("pack:{}/encoder_here", OpenEncoder), ("hf:{}/decoder", OpenLanguageModel),
        ("pack:{}/decoder_here", OpenLanguageModel),
    ],
)  # fmt: skip
def test_load_returns_what_a_source_holds(sources, source, kind):
    assert type(pj.load(source.format(sources))) is kind


def test_a_folder_and_the_run_made_of_it_are_the_same_model(sources, model):
    ours = pj.load(f"run:{sources / 'whole_here'}")
    pair = pj.Example("1", (pj.Message("user", "<image>\nwhat colour?"),), (image(),), "red", "three")
    for a, b in zip(model.logprobs([pair]), ours.logprobs([pair]), strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_array_equal(a.logps, b.logps)
    np.testing.assert_array_equal(model.encode_images([image()]), ours.encode_images([image()]))
    assert model.chat("what colour?", [image()], max_new_tokens=4) == ours.chat(
        "what colour?", [image()], max_new_tokens=4
    )


def test_log_probs_of_a_pair_are_those_of_two_conversations(model):
    question = pj.Message("user", "<image>\nwhat colour?")
    pair = pj.Example("1", (question,), (image(),), "red", "three")
    (both,) = model.logprobs([pair])
    for branch, answer in ((1, "red"), (2, "three")):
        (alone,) = model.logprobs([pj.Example("1", (question, pj.Message("assistant", answer)), (image(),))])
        assert both.sum(branch) == pytest.approx(alone.sum(), abs=1e-4)


def test_batches_and_lengths_change_no_log_prob(model):
    texts = ["red", "three circle", "what colour is the circle? red"] * 4
    question = pj.Message("user", "<image>\nhow many?")
    rows = [pj.Example(str(i), (question, pj.Message("assistant", text)), (image(i),)) for i, text in enumerate(texts)]
    together = model.logprobs(rows)
    for row, found in zip(rows, together, strict=True):
        np.testing.assert_allclose(found.logps, model.logprobs([row])[0].logps, atol=1e-4)


def test_an_exported_model_is_the_same_model(model, tmp_path):
    model.export(tmp_path / "out")
    again = pj.load(f"hf:{tmp_path / 'out'}")
    np.testing.assert_array_equal(again.encode_images([image()]), model.encode_images([image()]))
    with pytest.raises(pj.UserError, match="is not empty"):
        model.export(tmp_path / "out")
    model.export(tmp_path / "out", overwrite=True)


def test_a_folder_becomes_a_run_and_a_run_a_folder(sources, model, tmp_path):
    """``import_hf`` and ``export_hf``, with paths as text, as a notebook writes them."""
    found = pj.import_hf(str(sources / "whole"), str(tmp_path / "run"))
    assert found.kind == "run" and found.summary
    assert dict(pj.config(str(tmp_path / "run" / "config.json")).init) == {"": f"hf:{sources / 'whole'}"}
    pj.export_hf(str(tmp_path / "run"), str(tmp_path / "out"))
    again = pj.load(f"hf:{tmp_path / 'out'}")
    np.testing.assert_array_equal(again.encode_images([image()]), model.encode_images([image()]))
    with pytest.raises(pj.UserError, match=r"was trained without LoRA .*part='model'"):
        pj.export_hf(tmp_path / "run", tmp_path / "adapter", part="adapter")


def test_wrong_use_is_one_line(sources, model):
    with pytest.raises(pj.UserError, match="leave out '<image>'"):
        model.chat("<image> what?", [image()])
    with pytest.raises(pj.UserError, match="2 images, but this model was trained with at most 1"):
        model.chat("what?", [image(), image()])
    with pytest.raises(pj.UserError, match="^image file no.png does not exist$"):
        model.chat("what?", ["no.png"])
    with pytest.raises(pj.UserError, match=r"^image of 5 encoded bytes cannot be read \(not an image"):
        model.chat("what?", [b"notes"])
    with pytest.raises(pj.UserError, match=r"images: one str; write a list"):
        model.chat("what?", "no.png")
    with pytest.raises(pj.UserError, match="one Example; write a list"):
        model.logprobs(pj.Example("1", ()))
    with pytest.raises(pj.UserError, match=r"is a path; write pj.config\('a.py'\)"):
        pj.train("a.py", "run")
    with pytest.raises(pj.UserError, match=r"is a weight source; write pj.load\('pack:a'\)"):
        pj.probe.classify("pack:a", "data")
    assert repr(model).startswith("OpenModel('hf:") and len(repr(model)) < 300
    with pytest.raises(pj.UserError, match="no images"):
        model.encode_images([])
    with pytest.raises(pj.UserError, match="is not a run, so there is no default"):
        pj.evaluate(model, "mmvp", "nowhere")
    with pytest.raises(pj.UserError, match="has no projector"):
        pj.load(f"hf:{sources / 'encoder'}").encode_images([image()], projected=True)


@pytest.mark.heavy
def test_a_run_opens_from_any_directory_without_the_tokenizer_it_was_trained_with(tmp_path):
    """``tokenizer.path`` is relative to where training was started; the run carries its tokenizer."""
    start, elsewhere = tmp_path / "start", tmp_path / "elsewhere"
    start.mkdir()
    elsewhere.mkdir()
    train_bpe(TEXTS, 270, start / "bpe")
    rows = [
        {"id": str(i), "conversations": [{"from": "human", "value": "how many?"}, {"from": "gpt", "value": "three"}]}
        for i in range(8)
    ]
    (start / "rows.json").write_text(json.dumps(rows))
    settings = {
        "model.vision": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2, "mlp_dim": 16},
        "model.decoder": {"vocab_size": 270, "width": 16, "depth": 1, "mlp_dim": 16}, "data.image.size": 16,
        "tokenizer.path": "bpe", "data.sources": ({"format": "llava", "path": "rows.json"},), "data.batch_size": 8,
        "train.steps": 1,
    }  # fmt: skip
    train = f"import pivot_jax as pj; pj.train(pj.config(overrides={settings!r}), 'run')"
    ask = f"import pivot_jax as pj; print(repr(pj.load('run:{start / 'run'}').chat('how many?', max_new_tokens=2)))"
    environment = dict(os.environ, PYTHONPATH=str(ROOT), XLA_FLAGS="")
    for code, folder in ((train, start), (ask, elsewhere)):
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stderr
        (start / "bpe").rename(start / "gone") if folder is start else None
    assert found.stdout.strip()


@pytest.mark.parametrize("source", ["hf:{}/encoder", "pack:{}/encoder_here"])
def test_a_config_takes_the_keys_of_an_encoder(sources, source):
    """A model built of them has the encoder's parameters and image size, and starts from its weights."""
    encoder = pj.load(source.format(sources))
    config = pj.config(overrides={**encoder.config_keys, "data.batch_size": 4})
    assert config.init.to_dict() == {"vision": source.format(sources)}
    built = zoo.build(config.model, config.data.image)
    assert built.vision == encoder.module.config.vision
    assert config.data.image.size == encoder.geometry.empty(1, 1).pixels.shape[-2]
