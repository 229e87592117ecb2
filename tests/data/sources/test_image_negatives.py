"""Visual pairs whose rejected side is a corrupted image."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data import sources
from pivot_jax.data.processing.images import load
from pivot_jax.errors import RowError, UserError


@pytest.fixture
def rows(tmp_path):
    """A pair, a conversation and a row of text only, each as a source's entry."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "three"}]
    pair = {"image": "a.png", "question": "How many?", "chosen": "three", "rejected": "two"}
    (tmp_path / "pair.jsonl").write_text(json.dumps(pair))
    (tmp_path / "turns.json").write_text(json.dumps([{"id": "t", "image": "a.png", "conversations": turns}]))
    (tmp_path / "text.jsonl").write_text(json.dumps({**pair, "image": None}))
    files = {"pair": ("mmpr", "pair.jsonl"), "turns": ("llava", "turns.json"), "text": ("mmpr", "text.jsonl")}
    return {name: {"format": format, "path": str(tmp_path / file)} for name, (format, file) in files.items()}


@pytest.mark.parametrize("name", ["pair", "turns"])
def test_the_right_answer_is_compared_under_the_image_and_under_a_part_of_it(rows, name):
    (example,) = sources.read(rows[name] | {"image_negatives": "crop:0.8"})
    assert example.chosen == "three" and example.rejected is None and example.images_rejected == 1
    assert [turn.role for turn in example.messages] == ["user"]
    clean, cropped = (np.asarray(load(image)) for image in example.images)
    assert clean.shape == cropped.shape and not np.array_equal(clean, cropped)
    again = sources.read(rows[name] | {"image_negatives": "crop:0.8"})[0]
    np.testing.assert_array_equal(np.asarray(load(again.images[1])), cropped)


def test_rows_without_an_image_and_other_rules(rows):
    with pytest.raises(RowError, match="has no image, so 'image_negatives' cannot"):
        sources.read(rows["text"] | {"image_negatives": "noise:0.3"})[0]
    for rule, words in (("crop", "is not KIND:LEVEL"), ("fog:0.3", "'fog' is unknown"), ("noise:3", "not a share")):
        with pytest.raises(UserError, match=words):
            sources.check(rows["pair"] | {"image_negatives": rule})
