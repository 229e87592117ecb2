"""The order in which a run's parts are checked."""

from __future__ import annotations

import pytest
from jax.sharding import AbstractMesh, AxisType

from pivot_jax.errors import UserError
from pivot_jax.parallel.mesh import AXES
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


@pytest.mark.parametrize(
    ("sizes", "processes", "good"), [((1, 4, 2), 4, True), ((1, 2, 4), 2, True), ((1, 2, 4), 4, False)]
)
def test_processes_divide_the_row_shards(make_config, sizes, processes, good):
    """Where two processes hold the same shard of the rows, each would fill it with rows of its own."""
    mesh = AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3)
    config = make_config(data__batch_size=16)
    if good:
        return setup.check_batch(config, mesh, processes)
    with pytest.raises(UserError, match="parallel.data x parallel.fsdp is 2, not a multiple of the 4 processes"):
        setup.check_batch(config, mesh, processes)
