"""Which checkpoints are kept, and how packs are replaced."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.optim.update import TrainState
from pivot_jax.train import checkpoint, pack
from pivot_jax.train.checkpoints import Checkpoints


def state(value: float) -> TrainState:
    weights = {"a": {"w": np.full((2, 3), value, np.float32)}}
    return TrainState(np.int32(0), weights, {}, {"mu": weights}, None, np.bool_(True))


@pytest.mark.parametrize(("metric", "best"), [("-loss", 2), ("accuracy", 3), ("", None)])
def test_the_newest_and_the_best_are_kept(tmp_path, metric, best):
    saved = Checkpoints(tmp_path, keep=1, best_metric=metric)
    for step, (loss, accuracy) in enumerate([(3.0, 0.1), (1.0, 0.2), (2.0, 0.9), (2.5, 0.5), (2.6, 0.4)], start=1):
        saved.save(step, state(step), {"data": step}, {"loss": loss, "accuracy": accuracy})
    saved.wait()
    assert saved.steps() == sorted({5} | ({best} if best else set()))
    saved.close()
    kept = best or 5
    np.testing.assert_array_equal(checkpoint.load_run(tmp_path, kept)["a"]["w"], np.full((2, 3), kept, np.float32))


def test_reading_a_checkpoint_warns_of_nothing(tmp_path, caplog):
    saved = Checkpoints(tmp_path)
    saved.save(1, state(1), {})
    saved.close()
    with caplog.at_level("WARNING", logger="absl"):
        checkpoint.load_run(tmp_path)
    assert not caplog.records


def test_a_missing_step_names_the_available_ones(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save(4, state(1), {})
    saved.wait()
    with pytest.raises(UserError, match=r"no checkpoint of step 7 .*steps \[4\]"):
        checkpoint.load_run(tmp_path, 7)
    with pytest.raises(UserError, match="no checkpoint .* there is no such folder"):
        checkpoint.load_run(tmp_path / "nothing")
    (tmp_path / "begun").mkdir()
    with pytest.raises(UserError, match="train that run first"):
        checkpoint.load_run(tmp_path / "begun")


def test_a_pack_is_replaced_only_when_the_new_one_is_complete(tmp_path):
    folder = tmp_path / "pack"
    with pytest.raises(UserError, match=r"pack.json is missing"):
        pack.load(folder)
    for value in (1.0, 2.0):
        pack.save(folder, {"vision": {"w": np.float32([value])}}, {"value": value})
    params, about = pack.load(folder)
    assert (params["vision"]["w"].tolist(), about) == ([2.0], {"value": 2.0})
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_a_pack_replaces_nothing_but_a_pack(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and was not written by this command; choose another folder"):
        pack.save(tmp_path, {"vision": {"w": np.float32([1.0])}}, {})
    with pytest.raises(UserError, match="is a file"):
        pack.save(tmp_path / "thesis.txt", {"vision": {"w": np.float32([1.0])}}, {})
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    pack.save(tmp_path / "pack", {"vision": {"w": np.float32([1.0])}}, {})
    (tmp_path / "pack" / "params" / "thesis.txt").write_text("more work")
    with pytest.raises(UserError, match=r"did not write or that were changed since \(params/thesis.txt\)"):
        pack.save(tmp_path / "pack", {"vision": {"w": np.float32([2.0])}}, {})
    assert (tmp_path / "pack" / "params" / "thesis.txt").exists()
