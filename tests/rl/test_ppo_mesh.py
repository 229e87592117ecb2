"""PPO on a mesh of eight devices."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.rl.run import run
from tests.tiny.kills import trace


@pytest.mark.heavy
def test_the_mesh_changes_values_and_their_loss_by_rounding_only(rl_config, tmp_path):
    found = []
    for axes in ({"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}):
        mesh = {f"parallel__{axis}": size for axis, size in ({"data": 1, "fsdp": 1, "tensor": 1} | axes).items()}
        workdir = tmp_path / "x".join(map(str, axes.values()))
        run(rl_config(rl__algorithm="ppo", rl__epochs=2, data__batch_size=8, train__steps=4, **mesh), workdir)
        found.append(trace(workdir))
    assert len(found[0]) == len(found[1]) == 4
    for one, other in zip(*found, strict=True):
        for name in ("value/loss", "value/mean", "value/returns_mean", "value/explained_variance", "loss", "reward"):
            if name in one:
                np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-5, err_msg=name)
