"""A run over two processes on CPU (gloo) compared with the same run in one process with as many devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.train import checkpoint
from pivot_jax.train.metrics import read
from tests.train.conftest import source
from tests.train.test_layer_leaves import UNSCANNED

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.heavy
@pytest.mark.parametrize(("objective", "layers"), [("sft", {}), ("dpo", {}), ("sft", UNSCANNED)])
def test_two_processes_train_the_same_as_one(make_config, world, tmp_path, objective, layers):
    pairs = dict(data__sources=(source(world, "next_dpo"),)) if objective == "dpo" else {}
    changes = dict(parallel__data=-1, parallel__fsdp=2, train__checkpoint_every=2, **pairs, **layers)
    config = make_config(objective__name=objective, **changes)
    file = tmp_path / "config.json"
    file.write_text(configs.to_json(config))
    train = [sys.executable, "-m", "pivot_jax.cli", "train", "--config", str(file), "--workdir"]
    two = [sys.executable, str(ROOT / "launch" / "local.py"), "--processes", "2", "--devices", "2", "--"]
    plain = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    one = plain | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    for command, environment in (
        ([*two, *train, str(tmp_path / "two")], plain),
        ([*train, str(tmp_path / "one")], one),
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    logs = [read(tmp_path / name / "metrics.jsonl") for name in ("two", "one")]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]] == [1, 2, 3]
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose(*([row[key] for row in log] for log in logs), rtol=1e-5, err_msg=key)
    ends = [rules.flatten(checkpoint.load_run(tmp_path / name)) for name in ("two", "one")]
    assert ends[0].keys() == ends[1].keys()
    for path, leaf in ends[0].items():
        np.testing.assert_allclose(leaf, ends[1][path], atol=1e-5, err_msg=path)
