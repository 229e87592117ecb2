"""Tuning with a simulated clock, and the table that kernels read."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import pytest

from pivot_jax.cli.main import main
from pivot_jax.errors import UserError
from pivot_jax.kernels import tiles, tune
from pivot_jax.kernels.gpu import triton
from pivot_jax.kernels.gpu.triton_tile import Tile, Tiles
from pivot_jax.kernels.mask import NO_IDS, Ids
from pivot_jax.kernels.tpu import attention as tpu

LM = "8x2048x14/2x64:causal:segments"
TRITON, TPU = tune.TUNABLE["gpu"], tune.TUNABLE["tpu"]
BEST = Tiles(Tile(128, 128, 8, 2), Tile(64, 32, 4, 3), Tile(128, 32, 8, 2))


@pytest.fixture(autouse=True)
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("PIVOT_TILES", str(tmp_path / "kernels" / "tiles.json"))
    return tmp_path / "kernels" / "tiles.json"


def clock(shape, candidate):
    """Each kernel with its best tile saves a second; one tile of forward does not compile."""
    if candidate.forward == Tile(128, 128, 4, 2):
        raise jax.errors.JaxRuntimeError("Shared memory size limit exceeded\nmore")
    return 10.0 - sum(a == b for a, b in zip(candidate, BEST, strict=True))


def test_every_kernel_gets_its_fastest_tile_and_tiles_that_do_not_compile_are_skipped():
    found = tune.tune(tune.parse(LM), TRITON, clock)
    assert found.tiles == BEST
    assert (found.ms, found.default_ms) == (7000.0, 10000.0)
    assert str(found.case) == "2048x2048 group 7 width 64 bfloat16 causal segments"


@pytest.mark.parametrize("n", [1, 40, 577])
def test_candidates_of_a_short_row_are_no_longer_than_the_row_needs(n):
    shape = tune.parse(f"2x{n}x4x64")
    assert all(max(tile[:2]) < 2 * max(n, 16) for name in Tiles._fields for tile in TRITON.candidates(name, shape))
    assert all(max(sides) < n for sides in TPU.candidates("both", shape))


@pytest.mark.parametrize("mask", ["segments", "branches"])
@pytest.mark.heavy_after(1)
def test_the_timed_step_runs(mask):
    shape = tune.parse(f"1x40x2/1x16:causal:{mask}")
    assert tune.seconds(TRITON, shape, Tiles(*[Tile(32, 32, 4, 1)] * 3)) > 0
    assert tune.seconds(TPU, shape, TPU.default(shape)) > 0


def test_tiles_of_a_tpu():
    best = tpu.Sides(512, 1024)
    found = tune.tune(tune.parse(LM), TPU, lambda shape, candidate: 1.0 if candidate.both == best else 2.0)
    assert (found.tiles.both, found.ms, found.default_ms) == (best, 1000.0, 2000.0)
    assert tpu.choose_tiles(2048, 577).both == (512, 592)  # the default: no padding beyond a register's rows


@pytest.mark.parametrize(
    "module, tunable, best", [(triton, TRITON, BEST), (tpu, TPU, tpu.Tiles(tpu.Sides(256, 1024)))], ids=["gpu", "tpu"]
)
def test_a_kernel_uses_tiles_measured_for_its_case_device_and_jax(table, monkeypatch, module, tunable, best):
    q, k = (jax.ShapeDtypeStruct((8, 2048, heads, 64), jnp.bfloat16) for heads in (14, 2))
    ids = jax.ShapeDtypeStruct((8, 2048), jnp.int32)
    used = []
    monkeypatch.setattr(module, "platform", lambda: "gpu" if module is triton else "tpu")
    monkeypatch.setattr(module, "kind", lambda: "this one")

    def attend(spec, q, k, v, where):
        used.append(spec.tiles if module is triton else tpu.Tiles(tpu.Sides(spec.q_block, spec.k_block)))
        return q

    monkeypatch.setattr(module, "_attend", attend)

    def tiles_of(ids):
        jax.eval_shape(lambda *x: tunable.attend(*x, causal=True, scale=1.0), q, k, k, ids)
        return used.pop()

    packed = Ids.same(ids)
    default, shape = tiles_of(packed), tune.parse(LM)
    assert default == tunable.default(shape) != best
    case = tiles.Case(2048, 2048, 7, 64, "bfloat16", True, "segments")
    tiles.record("another", tunable.backend, case, {"tiles": best})
    assert tiles_of(packed) == default  # another device
    tiles.record("this one", tunable.backend, case, {"tiles": best})
    assert tiles_of(packed) == best
    assert tiles_of(NO_IDS) == default  # another case
    content = json.loads(table.read_text())
    content["this one"][tunable.backend][str(case)]["jax"] = "0.1"
    table.write_text(json.dumps(content))
    tiles._table.cache_clear()
    assert tiles_of(packed) == default  # another JAX


@pytest.mark.parametrize("text", ["8x2048x64", "8x10x3/2x64", "0x10x2x64", "8x10x2x64:sideways"])
def test_a_wrong_shape_raises_an_error_with_the_format(text):
    with pytest.raises(UserError, match=f"shape '{text}'"):
        tune.parse(text)


def test_an_invalid_table_raises_an_error_that_names_it(table):
    table.parent.mkdir()
    table.write_text('{"NVIDIA H200": [1]}')
    with pytest.raises(UserError, match="is not a table of tile sizes"):
        tiles.read(table)


def test_the_command_rejects_a_cpu(capsys):
    assert main(["tune", "--shape", LM]) == 1
    assert "this machine's device is a cpu" in capsys.readouterr().err
