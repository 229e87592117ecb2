"""The benchmarks of GPU kernels: the parts that a CPU can run."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax.kernels import dispatch
from pivot_jax.kernels.attention import attention
from pivot_jax.kernels.mask import Ids

ROOT = Path(__file__).resolve().parents[2]
# Packages absent on a machine with only jax, flax and optax; flax itself needs orbax.
ABSENT = ("grain", "ml_collections", "transformers", "torch", "tensorflow_datasets", "tokenizers", "sklearn", "jinja2")


@pytest.fixture
def script(monkeypatch):
    """Imports a file of the benchmarks, which are not a package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.mark.parametrize("mask", ["none", "padded", "branches"])
@pytest.mark.parametrize("causal", [False, True])
def test_exact_attention_equals_the_reference_backend(script, causal, mask):
    """Two implementations: one in NumPy with gradients by hand, one in JAX."""
    cases = script("attention_cases")
    case = cases.Case(2, 40, 4, 2, 8, causal, mask)
    segments, branches = cases.ids(case)
    ids = Ids.same(segments, branches)
    q, k, v, d_out = cases.draw(case)
    with jax.enable_x64(True):
        wide = [jnp.asarray(x, jnp.float64) for x in (q, k, v)]
        out, pull = jax.vjp(lambda *x: attention(*x, causal=causal, backend="reference", ids=ids), *wide)
        found = dict(zip(cases.OUTPUTS, map(np.array, (out, *pull(jnp.asarray(d_out, jnp.float64)))), strict=True))
    report, wrong = cases.errors(case, "float32", found, whole=True)
    assert not wrong and max(x["max_relative"] for x in report.values()) < 1e-12
    for spoilt in (np.nan, found["dk"][1, 3, 1, 2] + 1e-3):
        found["dk"][1, 3, 1, 2] = spoilt
        assert "dk off" in cases.errors(case, "float32", found, whole=True)[1]


def test_flops_count_the_visible_pairs(script):
    cases = script("attention_cases")
    assert cases.Case(2, 10, 4, 2, 8, False, "none").flops == 4 * 2 * 4 * 8 * 100
    assert cases.Case(1, 10, 1, 1, 1, True, "none").flops == 4 * 55
    pair = cases.CASES["1.5B, a pair of 768"]
    assert pair.flops == 4 * pair.rows * pair.h * pair.c * (768 * 769 / 2 - 64 * 64)  # rejected cannot see chosen


def test_the_table_gets_the_backend_with_the_least_time_over_all_cases_of_a_kind(script, monkeypatch, tmp_path):
    """Two lengths of one width. A backend without a time for one of them is excluded; other projects' are too."""
    attention_script = script("attention")
    file = tmp_path / "choices.json"
    file.write_text("{}")
    monkeypatch.setattr(dispatch, "TABLE", file)
    monkeypatch.setattr(attention_script.measure, "ROOT", tmp_path)
    case = {"rows": 1, "n": 2048, "h": 12, "kv": 2, "c": 128, "causal": True, "mask": "segments"}
    timed = lambda ms: {"state": "right", "both": {"ms": {"median": ms}}}  # noqa: E731
    results = {
        "a": {"case": case, "sides": {"xla": timed(5.0), "pallas_gpu": timed(2.0), "cudnn": timed(1.0)}},
        "b": {
            "case": {**case, "n": 4096},
            "sides": {"xla": timed(7.0), "pallas_gpu": timed(9.0), "cudnn": {"state": "wrong"}, "jax.nn": timed(0.1)},
        },
    }
    content = {"dtype": "bfloat16", "machine": {"device": "NVIDIA H200"}, "results": results}
    attention_script.write_table(content)
    entry = {"widths": [128], "causal": True, "mask": "segments", "dtype": "bfloat16", "backend": "pallas_gpu"}
    assert dispatch.read_table(file) == {"NVIDIA H200": [entry]}


@pytest.mark.parametrize("task", ["dpo", pytest.param("sft", marks=pytest.mark.heavy)])
@pytest.mark.heavy_after(1)
def test_our_side_of_the_step_runs_on_the_batches_made_for_it(script, task):
    """With the log-probs of a uniform model as the reference, DPO's loss is near ln 2."""
    side = script("step_sides").JaxSide("tiny", "dots")
    found = side.prepare(task, 2)
    assert found["loss"] == pytest.approx(np.log(2) if task == "dpo" else np.log(512), rel=0.1)
    assert found["flops_executed"] > found["flops_useful"] > 0
    assert np.isfinite(side.step()[1])


def test_a_side_that_dies_or_hangs_reports_it_and_ends_only_itself(script):
    measure = script("measure")
    for method, argument, reason in (("_exit", 3, "ended with code 3"), ("abort", None, "ended with code -6")):
        side = measure.Side(_Os)
        with pytest.raises(measure.SideError, match=reason):
            side.ask("call", method, argument)
        assert not side.alive
    side = measure.Side(_Os)
    with pytest.raises(measure.SideError, match="ValueError: no"):
        side.ask("fail")
    with pytest.raises(measure.SideError, match="no answer in 1 s"):
        side.ask("hang", limit=1.0)
    assert not side.alive


class _Os:
    def call(self, name, argument):
        getattr(os, name)(*([] if argument is None else [argument]))

    def fail(self):
        raise ValueError("no\nreason")

    def hang(self):
        import time

        time.sleep(60)


@pytest.mark.heavy
def test_the_whole_command_runs_with_few_packages_installed(tmp_path):
    """Every part at a tiny size on the CPU. Packages that a bare GPU machine lacks cannot be imported."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ABSENT:
        (hidden / f"{name}.py").write_text("raise ImportError(__name__)\n")
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--smoke", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(hidden), "XLA_FLAGS": ""}
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout + run.stderr
    results = {path.stem: json.loads(path.read_text())["results"] for path in (tmp_path / "out").glob("*.json")}
    assert set(results) == {"attention_numerics", "attention", "logprobs", "step", "sampler", "rollout"}
    for backend in results["attention_numerics"].values():
        assert {case["state"] for case in backend.values()} == {"right"}
    assert set(results["step"]) == {"dpo", "dpo_trl", "sft", "grpo"}
    assert results["step"]["grpo"]["ours"]["rows_per_second"] > 0
    assert results["rollout"]["tiny"]["ours"]["tokens_per_second"]["median"] > 0


def test_a_part_without_time_is_skipped(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--smoke", "--budget", "10", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert run.returncode == 1 and run.stdout.count("skipped: no time left") == 6
