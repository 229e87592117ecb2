"""Two processes with four devices each sample what one device samples, each for prompts of its own."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pivot_jax.rollout.engine import Response, Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from tests.tiny import mllm, rollouts

ROOT = Path(__file__).resolve().parents[2]
VOCAB, ANY, SEED = 31, Sampling(12, stop_ids=(7, 8), banned_ids=(3,)), (1, 2)
# Of each process: other numbers of prompts, of other buckets; the second needs the larger cache.
LENGTHS = ((6, 9, 20), (70, 7, 12, 130, 8))

WORKER = """
import sys
from pivot_jax.parallel import hosts
peers = hosts.start(120.0, "test")
import jax, numpy as np
from jax.sharding import AxisType, Mesh
from pivot_jax.parallel.mesh import AXES, param_shardings
from pivot_jax.rollout.sampler import Sampler, Shape
from tests.rollout.test_sampler_processes import ANY, SEED, VOCAB, prompts_of
from tests.tiny import mllm, rollouts

module, params = mllm.tiny_mllm(VOCAB, gain=2.0)
mesh = Mesh(np.asarray(jax.devices()).reshape(2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3)
whole = lambda x, s: jax.make_array_from_callback(x.shape, s, lambda index: x[index])
placed = jax.tree.map(whole, params, param_shardings(params, mesh))
sampler = Sampler(module, rollouts.processor(), Shape(slots=8, prompts=4, steps=4), mesh=mesh)
sampler.update(placed, 0)
found = sampler.generate(prompts_of(jax.process_index()), 4, ANY, SEED)
flat = [response for group in found.responses for response in group]
arrays = {f"{name}{i}": getattr(r, name) for i, r in enumerate(flat) for name in ("tokens", "logps", "sampling_logps")}
np.savez(f"{sys.argv[1]}/{jax.process_index()}.npz", **arrays)
peers.run(lambda: 0)
"""


def prompts_of(process):
    found = rollouts.random_prompts(LENGTHS[process], VOCAB, seed=process, images=process == 0)
    return [dataclasses.replace(one, number=10 * process + i) for i, one in enumerate(found)]


@pytest.mark.heavy
def test_two_processes_sample_the_same_as_one(tmp_path):
    command = [sys.executable, str(ROOT / "launch" / "local.py"), "--processes", "2", "--devices", "4", "--"]
    plain = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    worker = [sys.executable, "-c", WORKER, str(tmp_path)]
    done = subprocess.run([*command, *worker], capture_output=True, text=True, timeout=400, env=plain, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    model = mllm.tiny_mllm(VOCAB, gain=2.0)
    sampler = Sampler(model[0], rollouts.processor(), Shape(slots=4, prompts=2, steps=4))
    sampler.update(model[1], 0)
    for process in range(2):
        prompts = prompts_of(process)
        alone = sampler.generate(prompts, 4, ANY, SEED)
        saved = np.load(tmp_path / f"{process}.npz")
        names = ("tokens", "logps", "sampling_logps")
        flat = [Response(*(saved[f"{name}{i}"] for name in names), "stop") for i in range(4 * len(prompts))]
        theirs = SimpleNamespace(responses=[flat[4 * i : 4 * i + 4] for i in range(len(prompts))])
        rollouts.assert_agree(model, rollouts.processor(), prompts, alone, theirs, ANY, SEED)
