"""Stage 2 on eight devices: the reference pass, training, the checkpoint and the encoder taken out of it."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax import rules
from pivot_jax.train import checkpoint, pack
from pivot_jax.train.extract import extract
from pivot_jax.train.run import run
from tests.train.conftest import source
from tests.train.test_resume import trace


@pytest.mark.heavy
def test_the_stored_reference_is_that_of_the_step_and_the_encoder_is_extracted(world, make_config, tmp_path):
    """One row a device."""
    pairs = dict(objective__name="dpo", data__sources=(source(world, "next_dpo"),), train__steps=2)
    for reference in ("stored", "step"):
        run(make_config(**pairs, objective__reference=reference), tmp_path / reference)
    for stored, step in zip(trace(tmp_path / "stored"), trace(tmp_path / "step"), strict=True):
        assert stored.keys() == step.keys()
        for name, value in step.items():
            np.testing.assert_allclose(stored[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    extract(tmp_path / "stored", tmp_path / "pack")
    packed, params = pack.load(tmp_path / "pack")[0], checkpoint.load_run(tmp_path / "stored")
    whole = rules.flatten(params["vision"])
    for path, leaf in rules.flatten(packed["vision"]).items():
        np.testing.assert_array_equal(leaf, whole[path], err_msg=path)
