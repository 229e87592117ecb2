"""Online RL over two processes of four devices each (gloo), compared with the same run on one device.

Without a filter: with one, each process fills its own part of an update, so the groups depend on their number.
"""

from __future__ import annotations

import json
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

ROOT = Path(__file__).resolve().parents[2]


def sampled(workdir: Path) -> list[dict[tuple[str, int], str]]:
    """Of each rollout: (row, sample) → text, from the files of all processes."""
    rollouts: dict[str, dict[tuple[str, int], str]] = {}
    for path in sorted((workdir / "completions").glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        rollouts.setdefault(path.name[:6], {}).update({(one["id"], one["sample"]): one["completion"] for one in lines})
    return [rollouts[number] for number in sorted(rollouts)]


def heldout(workdir: Path, step: int) -> list[tuple[str, str]]:
    """(row, text) of the responses to held-out prompts, which are in one file."""
    (file,) = (workdir / "eval").glob(f"heldout-{step}*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [(one["id"], one["completion"]) for one in lines]


@pytest.mark.heavy
@pytest.mark.parametrize("algorithm", ["trl-grpo", "reinforce++", "dapo"])
def test_two_processes_of_four_devices_train_as_one_device(rl_config, world, tmp_path, algorithm):
    """They evaluate alike, too; of the last batch of held-out prompts, one process has none."""
    config = rl_config(
        rl__algorithm=algorithm, rl__kl_coefficient=0.02, rl__filter="none", data__batch_size=8,
        parallel__data=-1, parallel__fsdp=2, train__steps=3, eval__every=3, eval__at_start=True,
        rl__heldout__sources=({**source(world, "llava"), "sampling": "first:10"},), rl__heldout__responses=2,
    )  # fmt: skip
    file = tmp_path / "config.json"
    train = [sys.executable, "-m", "pivot_jax.cli", "train", "--config", str(file), "--workdir"]
    two = [sys.executable, str(ROOT / "launch" / "local.py"), "--processes", "2", "--devices", "4", "--"]
    plain = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    for command, mesh in (([*two, *train, str(tmp_path / "two")], 2), ([*train, str(tmp_path / "one")], 1)):
        config.parallel.fsdp = mesh
        file.write_text(configs.to_json(config))
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=plain, cwd=ROOT)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert sampled(tmp_path / "two") == sampled(tmp_path / "one")
    for step in (0, 3):
        two, one = (heldout(tmp_path / name, step) for name in ("two", "one"))
        assert two == one and [row[0] for row in two] == [f"row{i}" for i in range(10) for _ in range(2)]
    whole = [read(tmp_path / name / "metrics.jsonl") for name in ("two", "one")]
    evaluated = [[row for row in log if "eval/heldout/reward" in row] for log in whole]
    logs = [[row for row in log if "loss" in row] for log in whole]
    for key in ("reward", "mean_length", "clipped_ratio", "rewards/count"):
        two, one = ([row[f"eval/heldout/{key}"] for row in log] for log in evaluated)
        assert two == one and len(two) == 2, key
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]] == [1, 2, 3]
    for key in ("loss", "grad_norm", "reward", "kl", "completions/mean_length"):
        np.testing.assert_allclose(*([row[key] for row in log] for log in logs), rtol=1e-5, atol=1e-6, err_msg=key)
    ends = [rules.flatten(checkpoint.load_run(tmp_path / name)) for name in ("two", "one")]
    assert ends[0].keys() == ends[1].keys()
    for path, leaf in ends[0].items():
        if path.endswith("attn/k/bias"):
            continue  # softmax does not depend on it: its gradient is rounding alone, which AdamW scales to a step
        apart = np.abs(np.asarray(leaf) - np.asarray(ends[1][path]))
        # AdamW scales the few elements whose gradient is rounding alone to a step, too.
        assert np.mean(apart > 1e-5) < 1e-3 and apart.max() < 1e-4, (path, apart.max())
