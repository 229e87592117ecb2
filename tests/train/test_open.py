"""Encoders and language models alone, opened from folders, packs and runs."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from pivot_jax import hub, rules
from pivot_jax.errors import UserError
from pivot_jax.models.language_model import text_batch
from pivot_jax.models.logprobs import score
from pivot_jax.probe import features
from pivot_jax.train.open import open_encoder, open_language_model
from tests.tiny import hf


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A LLaVA folder, its encoder and language model as folders and packs, and the run of the whole."""
    return hf.parts_and_imports(tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize(
    ("source", "tokenizer"),
    [("hf:{}/decoder", True), ("hf:{}/whole", True), ("pack:{}/decoder_here", False), ("run:{}/whole_here", True)],
)
def test_a_language_model_of_every_source(sources, source, tokenizer):
    opened = open_language_model(source.format(sources))
    whole = hub.load_params(sources / "whole")
    assert opened.params.keys() == {"decoder"}
    for path, leaf in rules.flatten(opened.params).items():
        np.testing.assert_array_equal(leaf, rules.flatten(whole)[path], err_msg=path)
    assert (opened.tokenizer is not None) == tokenizer
    batch = text_batch([[3, 4, 5]], opened.module.config.decoder)
    logps = jax.jit(lambda params: score(opened.module, params, batch).logps)(opened.params)
    assert logps.shape == (1, 2) and (np.asarray(logps) < 0).all()


def test_a_source_without_a_language_model(sources):
    for text in (f"hf:{sources}/encoder", f"pack:{sources}/encoder_here"):
        with pytest.raises(UserError, match="holds no language model"):
            open_language_model(text)
    with pytest.raises(UserError, match="a language model is read whole; leave out ':decoder'"):
        open_language_model(f"hf:{sources}/whole:decoder")


@pytest.mark.parametrize("source", ["hf:{}/encoder", "pack:{}/encoder_here", "hf:{}/whole", "run:{}/whole_here"])
def test_an_encoder_has_its_projector_where_there_is_one(sources, source):
    opened = open_encoder(source.format(sources))
    whole = "whole" in source
    assert opened.params.keys() == ({"vision", "projector"} if whole else {"vision"})
    assert (opened.module.config.projector is not None) == whole
    images = np.zeros((1, opened.geometry.size, opened.geometry.size, 3), np.uint8)
    kinds = [(features.vit_encoder, 24), (features.projector_encoder, 32)][: 1 + whole]
    for kind, width in kinds:
        found = features.extract(kind(opened.module), opened.params, images, pool="none", show=False)
        assert found.shape == (1, 9, width)
