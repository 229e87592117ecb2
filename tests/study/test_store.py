"""Results as files."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.study import store


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32, np.int64])
def test_items_come_back_as_they_were(tmp_path, dtype):
    items = (np.random.default_rng(0).random((3, 13)) * 9).astype(dtype)
    store.save(tmp_path / "a.json", store.Outcome({"accuracy": 0.5, "name": "ü"}, {"x": items, "none": items[:0]}))
    found = store.load(tmp_path / "a.json")
    assert found.numbers == {"accuracy": 0.5, "name": "ü"}
    np.testing.assert_array_equal(found.items["x"], items)
    assert found.items["x"].dtype == items.dtype and found.items["none"].shape == (0, 13)


def test_two_thousand_right_or_wrong_answers_take_less_than_half_a_kilobyte(tmp_path):
    store.save(tmp_path / "a.json", store.Outcome({}, {"x": np.random.default_rng(0).random(2000) < 0.7}))
    assert (tmp_path / "a.json").stat().st_size < 512


@pytest.mark.parametrize("text", ["", "[]", '{"items": {"x": {"shape": [2], "dtype": "bool", "data": "!!"}}}', "{}"])
def test_a_damaged_result_says_the_fix(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a.json: not a result of a study .*delete it"):
        store.load(tmp_path / "a.json")
