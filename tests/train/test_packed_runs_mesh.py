"""Packed runs: the same parameters and metrics as unpacked, and exact resumption."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.train import checkpoint
from pivot_jax.train.metrics import read
from pivot_jax.train.run import run
from pivot_jax.train.signals import Interrupted
from tests.train.conftest import source, stop_at

CLOCK = ("perf/", "seconds")


def lines(workdir):
    return [{k: v for k, v in line.items() if not k.startswith(CLOCK)} for line in read(workdir / "metrics.jsonl")]


def parameters(workdir):
    return rules.flatten(checkpoint.load_run(workdir))


@pytest.fixture(scope="module", params=["sft", pytest.param("dpo", marks=pytest.mark.heavy)])
def runs(request, world, make_config, tmp_path_factory):
    """(config of the packed run, its workdir, workdir of the unpacked run): four rows per sequence, eight devices.

    The preference step is not also split over ``fsdp``: XLA's CPU collectives sometimes deadlock then. Adam's usual eps
    would amplify the rounding noise of zero gradients to whole steps.
    """
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    changes = {"objective__name": name, "optimizer__eps": 1e-5, "train__steps": 5, "data__batch_size": 16}
    if name == "dpo":
        terms = (("sigmoid", 1.0), ("sft", 0.3))
        changes |= {"objective__terms": terms, "data__sources": (source(world, "next_dpo"),)}
    run(make_config(**changes), folder / "alone")
    data, fsdp = (2, 2) if name == "sft" else (4, 1)
    packed = make_config(**changes, parallel__data=data, parallel__fsdp=fsdp, parallel__tensor=2, data__packing=4)
    run(packed, folder / "packed")
    return packed, folder / "packed", folder / "alone"


@pytest.mark.heavy
def test_a_packed_run_ends_with_the_unpacked_runs_parameters_and_metrics(runs):
    _, packed, alone = runs
    got, want = parameters(packed), parameters(alone)
    for path, value in want.items():
        np.testing.assert_allclose(got[path], value, atol=1e-5, rtol=1e-5, err_msg=path)
    for a, b in zip(lines(alone), lines(packed), strict=True):
        assert a["num_tokens"] == b["num_tokens"] and a.keys() == b.keys()
        for name, value in a.items():
            np.testing.assert_allclose(b[name], value, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.heavy
def test_a_stopped_packed_run_resumes_with_the_same_bits(runs, tmp_path):
    config, whole, _ = runs
    config = configs.from_json(configs.to_json(config))
    configs.merge(config, {"eval.every": 2})
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stopped", [stop_at(2)])
    assert run(config, tmp_path / "stopped", [stop_at()]).step == 5
    assert lines(tmp_path / "stopped") == lines(whole)
    for path, value in parameters(whole).items():
        np.testing.assert_array_equal(parameters(tmp_path / "stopped")[path], value, err_msg=path)
