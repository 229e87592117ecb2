"""A tiny Qwen2.5-VL through its stages on eight devices, and packed on a mesh."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.train import checkpoint
from pivot_jax.train.extract import extract
from pivot_jax.train.open import open_encoder, open_run
from pivot_jax.train.run import run
from tests.train.conftest import QWEN, losses


@pytest.mark.heavy
def test_stages_on_meshes_and_packed(qwen_sources, make_config, tmp_path):
    """SFT on eight devices; the same packed on a 2 x 2 x 2 mesh; DPO from it; stage 3 from the pack of its encoder."""
    common = QWEN | dict(data__sources=(qwen_sources["chats"],), train__steps=3, optimizer__eps=1e-5)
    run(make_config(**common), tmp_path / "sft")
    mesh = {f"parallel__{axis}": 2 for axis in ("data", "fsdp", "tensor")}
    run(make_config(**common, **mesh, data__packing=2), tmp_path / "packed")
    np.testing.assert_allclose(losses(tmp_path / "packed"), losses(tmp_path / "sft"), rtol=1e-4)
    start, packed = (rules.flatten(checkpoint.load_run(tmp_path / name)) for name in ("sft", "packed"))
    for path, leaf in start.items():
        np.testing.assert_allclose(packed[path], leaf, atol=1e-5, err_msg=path)

    pairs = common | dict(data__sources=(qwen_sources["pairs"],), objective__name="dpo")
    run(make_config(**pairs, init={"": f"run:{tmp_path / 'sft'}"}), tmp_path / "dpo")
    assert losses(tmp_path / "dpo")[0] == pytest.approx(np.log(2), abs=1e-5)
    trained = rules.flatten(checkpoint.load_run(tmp_path / "dpo"))
    assert trained.keys() == start.keys() and {"projector/norm/scale", "vision/embed/kernel"} <= start.keys()
    still = {path for path, leaf in trained.items() if np.array_equal(leaf, start[path])}
    assert not still, f"DPO moved everything but {still}"

    extract(tmp_path / "dpo", tmp_path / "pack")
    only = (("projector/.*", 1e-2), (".*", "frozen"))
    init = {name: f"pack:{tmp_path / 'pack'}" for name in ("vision", "projector")}
    run(make_config(**common, init=init, optimizer__rules=only), tmp_path / "third")
    third = rules.flatten(checkpoint.load_run(tmp_path / "third"))
    for path, leaf in trained.items():
        if path.startswith("vision/"):
            np.testing.assert_array_equal(third[path], leaf, err_msg=path)
    with pytest.raises(UserError, match="variable-resolution images"):
        open_encoder(f"pack:{tmp_path / 'pack'}")
    opened = open_run(tmp_path / "dpo")
    assert opened.processor.chat.mrope and not opened.processor.geometry.fixed
