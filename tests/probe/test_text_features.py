"""Features of captions in every layer of a language model equal those that transformers gives each caption alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.errors import UserError
from pivot_jax.probe import caption_alignment, text_features
from pivot_jax.train.open import open_encoder, open_language_model
from tests.tiny import hf

TEXTS = ["a red circle", "two blue squares and a digit", "green", "a red circle on a grey ground, at the left", "seven"]


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A folder of a random Llama with a tokenizer, and transformers' model of it."""
    folder = tmp_path_factory.mktemp("language")
    tokenizer = load_tokenizer(train_bpe(TEXTS, 280, folder))
    theirs = hf.text_model(family="llama", vocab_size=300)
    theirs.save_pretrained(folder)
    return folder, theirs, tokenizer


@pytest.mark.parametrize("pool", text_features.POOLS)
def test_every_layer_of_every_text_equals_transformers(language, pool):
    folder, theirs, tokenizer = language
    ours = text_features.extract(open_language_model(f"hf:{folder}"), TEXTS, pool=pool, batch_size=2, show=False)
    assert ours.shape == (5, 3, 32) and ours.dtype == np.float32
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            states = theirs(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        states = torch.stack(states)[:, 0]
        assert hf.max_gap(ours[row], states.mean(1) if pool == "mean" else states[:, -1]) <= 1e-5


def test_a_language_model_in_place_of_stored_features(language, tmp_path):
    """The score is the one of the same features in a file; and errors of captions and models are one line."""
    folder = language[0]
    hf.vision_model().save_pretrained(tmp_path / "siglip")
    rng = np.random.default_rng(0)
    rows = []
    for index, text in enumerate(TEXTS):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
        turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": text}]
        rows.append({"id": str(index), "image": f"{index}.png", "conversations": turns})
    data = tmp_path / "data.json"
    data.write_text(json.dumps(rows))
    encoder, model = open_encoder(f"hf:{tmp_path / 'siglip'}"), open_language_model(f"hf:{folder}")
    stored = tmp_path / "words.npy"
    for pool in text_features.POOLS:
        np.save(stored, text_features.extract(model, TEXTS, pool=pool, show=False))
        for metric in ("mutual_knn", "cka"):
            found = caption_alignment.align(encoder, data, model, pool=pool, metric=metric, k=2)
            from_file = caption_alignment.align(encoder, data, stored, metric=metric, k=2)
            assert found.table.shape == (2, 3)
            np.testing.assert_array_equal(found.table, from_file.table)
    np.save(stored, np.full((5, 2, 4), np.nan, np.float32))
    bad = [
        (dict(text=stored), "NaN or infinity"),
        (dict(text=model, metric="knn"), "metric 'knn' is unknown"),
        (dict(text=model, pool="max"), "pool 'max' is unknown; choose one of mean, last"),
        (dict(text=model, clamp="some"), "clamp 'some' is unknown"),
        (dict(text=model, metric="cknna", k=1), "use k of at least 2"),
        (dict(text=replace(model, tokenizer=None)), "has no tokenizer to read texts with"),
    ]
    for given, says in bad:
        with pytest.raises(UserError, match=says):
            caption_alignment.align(encoder, data, **{"k": 2, **given})
    rows[3]["conversations"][1]["value"] = ""
    data.write_text(json.dumps(rows))
    with pytest.raises(UserError, match="text 4 of 5 is empty"):
        caption_alignment.align(encoder, data, model, k=2)
