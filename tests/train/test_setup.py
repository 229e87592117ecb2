"""The order in which a run's parts are checked."""

from __future__ import annotations

import pytest

from pivot_jax.errors import UserError
from pivot_jax.train import setup


@pytest.mark.parametrize(
    ("key", "entry", "says"),
    [
        ("data__sources", {"format": "lava", "path": "x"}, "format 'lava' is not known .*did you mean 'llava'"),
        ("data__sources", {"format": "llava", "pth": "x"}, "no key 'pth' .*did you mean 'path'"),
        ("rl__heldout__sources", {"format": "lava", "path": "x"}, "format 'lava' is not known"),
    ],
)
def test_a_misspelt_source_is_found_before_the_model_is_built(make_config, monkeypatch, key, entry, says):
    def built(*_):
        raise AssertionError("the model is built first")

    for name in ("config_tokenizer", "build_model"):
        monkeypatch.setattr(setup, name, built)
    with pytest.raises(UserError, match=says):
        setup.build_setup(make_config(**{key: (entry,)}), None)
