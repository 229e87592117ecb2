"""Rows without images: the same training whether they have empty image slots or none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax.errors import UserError
from pivot_jax.train.run import run
from tests.train.conftest import losses


@pytest.mark.parametrize(("objective", "packing"), [("sft", 1), ("dpo", 2)])
@pytest.mark.heavy
def test_texts_train_with_and_without_image_slots(make_config, tmp_path, objective, packing):
    colours = ("red", "green", "blue")
    rows = [{"id": str(i), "prompt": f"What colour is image {i % 5}?", "chosen": f"It is {colours[i % 3]}.",
             "rejected": f"It is {colours[(i + 1) % 3]}."} for i in range(16)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"format": "trl", "path": str(tmp_path / "rows.jsonl")}
    found = {}
    for slots in (1, 0):
        config = make_config(
            objective__name=objective, data__sources=(source,), data__images_per_row=slots, data__packing=packing,
            train__steps=2,
        )  # fmt: skip
        run(config, tmp_path / str(slots))
        found[slots] = losses(tmp_path / str(slots))
    assert len(found[0]) == 2 and found[0][1] != found[0][0]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_stage_0_needs_an_image():
    with pytest.raises(UserError, match=r"data\.images_per_row: 0, but a row of stage 0 is an image and its caption"):
        configs.load("", {"objective.name": "contrastive", "data.images_per_row": 0})
