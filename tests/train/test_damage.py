"""Checkpoints that are damaged: recognised by their digests, set aside, never loaded."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.models.stacking import Layers
from pivot_jax.optim.update import TrainState
from pivot_jax.train import checkpoint, digests
from pivot_jax.train.checkpoint import DamagedCheckpoint
from pivot_jax.train.checkpoints import Checkpoints
from tests.tiny.damage import DAMAGE, flip, without_digests


def state(value: float) -> TrainState:
    weights = {"a": {"w": jnp.asarray(np.random.default_rng(int(value)).standard_normal((60, 50)), jnp.float32)}}
    frozen = {"b": {"w": jnp.full((20, 30), value, jnp.bfloat16)}}
    moments = ({"mu": weights}, jnp.int32(3))
    return TrainState(jnp.int32(value), weights, frozen, moments, None, jnp.bool_(True))


LIKE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with checkpoints 1 and 2."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir)
    for step in (1, 2):
        checkpoints.save(step, state(step), {"data": {"next": step}, "window": [0.5, float("nan")]})
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "run"))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_used(workdir, caplog, damage):
    damage(workdir / "checkpoints" / "2")
    checkpoints = Checkpoints(workdir)
    with caplog.at_level(logging.WARNING, "pivot_jax"):
        restored, progress = checkpoints.restore_newest(LIKE)
    checkpoints.close()
    assert (
        "NoneType" not in caplog.text
        and "checkpoint 2 is damaged" in caplog.text
        and "continuing from step 1" in caplog.text
    )
    assert int(restored.step) == 1 and progress["data"] == {"next": 1}
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state(1)), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert [path.name for path in (workdir / "damaged").iterdir()] == ["2"]
    assert checkpoint.complete(workdir) == [1]


@pytest.mark.parametrize("name", ["array truncated", "bit flipped late", "folder empty"])
def test_a_run_without_an_undamaged_checkpoint_does_not_start_afresh(workdir, name):
    for step in ("1", "2"):
        DAMAGE[name](workdir / "checkpoints" / step)
    before = sorted(path.relative_to(workdir) for path in workdir.rglob("*"))
    checkpoints = Checkpoints(workdir)
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged \(2: .*; 1: .*\); nothing was changed"):
        checkpoints.restore_newest(LIKE)
    checkpoints.close()
    assert sorted(path.relative_to(workdir) for path in workdir.rglob("*")) == before


@pytest.mark.parametrize("bit", range(8))
def test_no_reader_takes_a_flipped_bit(workdir, bit):
    """Evaluation, probes and exports read the parameters alone, all of them or one by one."""
    for path in (workdir / "checkpoints" / "2" / "state").rglob("d/*"):
        if path.stat().st_size > 1000:
            for position in np.arange(0.05, 0.95, 0.1):
                flip(path, position, bit)
    with pytest.raises(DamagedCheckpoint, match=r"checkpoint .*/2 is damaged .* use an earlier one"):
        checkpoint.load_run(workdir)
    with pytest.raises(DamagedCheckpoint, match=r"checkpoint .*/2 is damaged"):
        for leaf in jax.tree.leaves(checkpoint.lazy_run(workdir), is_leaf=lambda x: hasattr(x, "read")):
            leaf.read()
    assert checkpoint.load_run(workdir, 1)["b"]["w"].shape == (20, 30)


def test_a_checkpoint_of_an_earlier_version_is_loaded_unverified(workdir, caplog):
    without_digests(workdir / "checkpoints" / "2")
    checkpoints = Checkpoints(workdir)
    with caplog.at_level(logging.WARNING, "pivot_jax"):
        restored, _ = checkpoints.restore_newest(LIKE)
    checkpoints.close()
    assert int(restored.step) == 2 and "loaded unverified" in caplog.text
    caplog.clear()
    checkpoint.load_run(workdir)  # as evaluation and exports do
    assert "loaded unverified" in caplog.text
    caplog.clear()
    for leaf in jax.tree.leaves(checkpoint.lazy_run(workdir), is_leaf=lambda x: hasattr(x, "read")):
        leaf.read()
    assert caplog.text.count("loaded unverified") == 1  # not once a parameter


def test_another_structure_is_no_damage(workdir):
    """A config that does not fit is an error of the config, and moves no checkpoint."""
    like = LIKE.replace(trained={"a": {"w": jax.ShapeDtypeStruct((61, 50), jnp.float32)}})
    checkpoints = Checkpoints(workdir)
    with pytest.raises(UserError, match=r"does not fit this config: trained/a/w has shape \(60, 50\) in it, .*61"):
        checkpoints.restore_newest(like)
    checkpoints.close()
    assert checkpoint.complete(workdir) == [1, 2]


def test_a_failed_write_in_the_background_is_found_at_the_next_step(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1), {})
    checkpoints.wait()
    checkpoints.check()
    large = state(2).replace(memory=jnp.asarray(np.random.default_rng(0).standard_normal(20_000_000), jnp.float32))
    checkpoints.save(2, large, {})
    limit, taken = time.monotonic() + 60, 0
    with pytest.raises(UserError, match=r"checkpoint 2 could not be written .* complete checkpoints: 1"):
        while time.monotonic() < limit:
            for path in checkpoints.folder.glob("2.*"):  # as often as it is made again: the writer may come after us
                with contextlib.suppress(OSError):
                    path.rename(tmp_path / f"gone{(taken := taken + 1)}")
            checkpoints.check()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint32", "int8", "bool"])
def test_host_and_device_agree_on_a_digest(dtype):
    values = np.random.default_rng(0).standard_normal((3, 70_001)) * 5
    array = jnp.asarray(values).astype(dtype)
    split = digests._split(array.shape)
    host = digests._host([array], split)
    np.testing.assert_array_equal(np.asarray(digests._device([array], split)), host)
    layers = Layers(array)
    assert digests.of_tree({"w": array}) == digests.of_tree({"w": layers})


def test_every_bit_and_every_position_counts():
    array = np.zeros((4, 1000), np.float32)
    seen = {digests.of_tree({"w": array})["w"][2]}
    for bit in range(32):
        changed = array.copy()
        changed.view(np.uint32)[2, 500] ^= np.uint32(1 << bit)
        seen.add(digests.of_tree({"w": changed})["w"][2])
    swapped = np.arange(4000, dtype=np.float32)
    seen.add(digests.of_tree({"w": swapped})["w"][2])
    swapped[[17, 3018]] = swapped[[3018, 17]]
    seen.add(digests.of_tree({"w": swapped})["w"][2])
    assert len(seen) == 35


@pytest.mark.parametrize("shape", [(), (7,), (0, 5), (3, 0), (5, 4, 3), (2, 3, 40, 70), (3, 2, 8, 2)])
def test_digests_of_any_shape(shape):
    """Host, device and a stack's layers agree; moving a row, a column or a layer, or losing the end, is seen."""
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (of_host,) = digests.of_tree({"w": array}).values()
    split = digests._split(shape)
    np.testing.assert_array_equal(
        np.asarray(digests._device([jnp.asarray(array)], split)), digests._host([array], split)
    )
    if shape and shape[0]:
        assert digests.of_tree({"w": Layers(jnp.asarray(array))}) == {"w": of_host}
    if array.size > 1:
        last = array.copy()
        last.reshape(-1)[-array.size // 3 :] = 0
        others = [last, *(np.roll(array, 1, axis) for axis in range(array.ndim))]
        assert len({of_host[2]} | {digests.of_tree({"w": other})["w"][2] for other in others}) == 1 + len(others)
