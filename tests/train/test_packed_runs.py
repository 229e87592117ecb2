"""Packed runs: the parameters and metrics of the unpacked run, and an exact resume."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from pivot_jax import rules
from pivot_jax.train import checkpoint, loop
from pivot_jax.train.metrics import read
from pivot_jax.train.run import run
from tests.train.conftest import source

CLOCK = ("perf/", "seconds")


def lines(workdir):
    return [{k: v for k, v in line.items() if not k.startswith(CLOCK)} for line in read(workdir / "metrics.jsonl")]


def parameters(workdir):
    return rules.flatten(checkpoint.load_run(workdir))


@pytest.fixture(scope="module", params=["sft", pytest.param("dpo", marks=pytest.mark.heavy)])
def runs(request, world, make_config, tmp_path_factory):
    """(config of the packed run, its workdir, the unpacked run's): four rows a sequence on a mesh of eight devices.

    The preference step is not split over ``fsdp`` too: XLA's collectives for CPUs sometimes lock each other out then.
    Adam's usual eps would blow the rounding noise of gradients that are zero up to whole steps.
    """
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    changes = {"objective__name": name, "optimizer__eps": 1e-5, "train__steps": 5, "data__batch_size": 16}
    if name == "dpo":
        terms = (("sigmoid", 1.0), ("sft", 0.3))
        changes |= {"objective__terms": terms, "data__sources": (source(world, "next_dpo"),)}
    run(make_config(**changes), folder / "alone")
    data, fsdp = (2, 2) if name == "sft" else (4, 1)
    packed = make_config(**changes, parallel__data=data, parallel__fsdp=fsdp, parallel__tensor=2, data__pack=4)
    run(packed, folder / "packed")
    return packed, folder / "packed", folder / "alone"


def test_a_packed_run_ends_with_the_unpacked_runs_parameters_and_metrics(runs):
    _, packed, alone = runs
    got, want = parameters(packed), parameters(alone)
    for path, value in want.items():
        np.testing.assert_allclose(got[path], value, atol=1e-5, rtol=1e-5, err_msg=path)
    for a, b in zip(lines(alone), lines(packed), strict=True):
        assert a["num_tokens"] == b["num_tokens"] and a.keys() == b.keys()
        for name, value in a.items():
            np.testing.assert_allclose(b[name], value, rtol=1e-4, atol=2e-5, err_msg=name)


def test_a_stopped_packed_run_continues_with_the_same_bits(runs, tmp_path, monkeypatch):
    config, whole, _ = runs
    account = loop._Run._account

    def stop_at_three(self, done, state):
        account(self, done, state)
        if done.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop._Run, "_account", stop_at_three)
    with pytest.raises(loop.Interrupted):
        run(config, tmp_path / "cut")
    monkeypatch.undo()
    assert run(config, tmp_path / "cut").step == 5
    assert lines(tmp_path / "cut") == lines(whole)
    for path, value in parameters(whole).items():
        np.testing.assert_array_equal(parameters(tmp_path / "cut")[path], value, err_msg=path)
