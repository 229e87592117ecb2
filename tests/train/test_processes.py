"""A run over two processes on CPU (gloo) compared with the same run in one process with as many devices."""

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
from tests.train.test_layer_leaves import UNSCANNED

ROOT = Path(__file__).resolve().parents[2]
# Trains, and leaves what each process was asked, call by call, and the metrics that it has at the end.
EVALUATES = """
import json, sys
from pathlib import Path
from pivot_jax.parallel import hosts
peers = hosts.start(120.0, "test")
import jax
from pivot_jax import config
from pivot_jax.eval.answerer import Answerer
from pivot_jax.train.run import run

calls, answer = [], Answerer.answer
def recorded(self, examples, *rest, **options):
    calls.append([example.id for example in examples])
    return answer(self, examples, *rest, **options)
Answerer.answer = recorded
workdir = Path(sys.argv[2])
metrics = run(config.load(sys.argv[1]), workdir).metrics
known = {name: value for name, value in metrics.items() if name.startswith("eval/")}
(workdir / f"process{jax.process_index()}.json").write_text(json.dumps({"calls": calls, "metrics": known}))
peers and peers.run(lambda: 0)
"""

# A benchmark of the first images. Its answers are short: parameters differ by rounding, which could flip a token.
COLOURS = """
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Variant

WAY = Variant(lambda item: "<image>\\n" + item.question, "exact", max_new_tokens=4)

def read(path):
    asked = "Which colour is it?"
    return [Item(str(i), f"{asked} {i}", (f"{path}/{i}.png",), answers=("It is red.",)) for i in range(COUNT)]

BENCHMARKS = {"colours": Benchmark(read, {"ours": WAY}, "short")}
"""


def one_and_two(worker: list[str], tmp_path: Path) -> None:
    """Runs a command, which takes a workdir, as one process in ``one`` and as two processes in ``two``."""
    two = [sys.executable, str(ROOT / "launch" / "local.py"), "--processes", "2", "--devices", "2", "--"]
    plain = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    one = plain | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    for command, environment in (
        ([*two, *worker, str(tmp_path / "two")], plain),
        ([*worker, str(tmp_path / "one")], one),
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.heavy
@pytest.mark.parametrize(("objective", "layers"), [("sft", {}), ("dpo", {}), ("sft", UNSCANNED)])
def test_two_processes_train_the_same_as_one(make_config, world, tmp_path, objective, layers):
    pairs = dict(data__sources=(source(world, "next_dpo"),)) if objective == "dpo" else {}
    changes = dict(parallel__data=-1, parallel__fsdp=2, train__checkpoint_every=2, **pairs, **layers)
    config = make_config(objective__name=objective, **changes)
    file = tmp_path / "config.json"
    file.write_text(configs.to_json(config))
    one_and_two([sys.executable, "-m", "pivot_jax.cli", "train", "--config", str(file), "--workdir"], tmp_path)
    logs = [read(tmp_path / name / "metrics.jsonl") for name in ("two", "one")]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]] == [1, 2, 3]
    for key in ("loss", "grad_norm"):
        np.testing.assert_allclose(*([row[key] for row in log] for log in logs), rtol=1e-5, err_msg=key)
    ends = [rules.flatten(checkpoint.load_run(tmp_path / name)) for name in ("two", "one")]
    assert ends[0].keys() == ends[1].keys()
    for path, leaf in ends[0].items():
        np.testing.assert_allclose(leaf, ends[1][path], atol=1e-5, err_msg=path)


@pytest.mark.heavy
def test_two_processes_share_the_questions_of_a_benchmark(make_config, world, tmp_path):
    """Each question is asked once, in as many calls by either process, and both have the scores of one process."""
    benchmarks = []
    for name, count in (("seven", 7), ("single", 1)):  # of the latter, one of the two processes has no question
        (tmp_path / f"{name}.py").write_text(COLOURS.replace("COUNT", str(count)))
        benchmarks.append({"name": str(tmp_path / f"{name}.py"), "path": str(world)})
    config = make_config(
        parallel__data=-1, parallel__fsdp=2, eval__every=2, eval__at_start=True, eval__batch_size=3,
        eval__benchmarks=tuple(benchmarks),
    )  # fmt: skip
    file = tmp_path / "config.json"
    file.write_text(configs.to_json(config))
    one_and_two([sys.executable, "-c", EVALUATES, str(file)], tmp_path)
    first, second = (json.loads((tmp_path / "two" / f"process{i}.json").read_text()) for i in range(2))
    (whole,) = (json.loads(path.read_text()) for path in (tmp_path / "one").glob("process*.json"))
    assert len(first["calls"]) == len(second["calls"]) == len(whole["calls"]) == 6  # two benchmarks at steps 0, 2 and 3
    assert [own + others for own, others in zip(first["calls"], second["calls"], strict=True)] == whole["calls"]
    assert [len(own) for own in first["calls"]] == [3, 0] * 3  # of 7 questions, and of the single one
    assert first["metrics"] == second["metrics"] == whole["metrics"]
    assert {"eval/seven/accuracy", "eval/single/accuracy"} <= set(whole["metrics"])
    for name in ("seven-0", "seven-2", "seven-3", "single-3"):
        answers, alone = (
            [json.loads(line) for line in (tmp_path / run / "eval" / f"{name}.jsonl").read_text().splitlines()]
            for run in ("two", "one")
        )
        assert answers == alone and len(answers) == (7 if "seven" in name else 1), name
    logs = [read(tmp_path / run / "metrics.jsonl") for run in ("two", "one")]
    scores = [
        [(row["step"], row["eval/seven/accuracy"]) for row in log if "eval/seven/accuracy" in row] for log in logs
    ]
    assert scores[0] == scores[1] and [step for step, _ in scores[0]] == [0, 2, 3]
