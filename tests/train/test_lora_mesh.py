"""LoRA adapters on a mesh of eight devices."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.parallel.mesh import make_mesh, param_shardings
from pivot_jax.train import checkpoint
from pivot_jax.train.run import run
from tests.train.conftest import LORA
from tests.train.test_resume import trace


@pytest.mark.heavy
def test_an_adapter_is_sharded_as_its_kernel(lora_runs, make_config):
    """A like the inputs of the kernel, B like its outputs; the rank is never sharded."""
    raw = checkpoint.load_run(lora_runs / "adapted", merge=False)
    specs = rules.flatten(param_shardings(raw, make_mesh({"data": 2, "fsdp": 2, "tensor": 2})))
    for name, a, b in (("q", ("fsdp", None), (None, "tensor")), ("out", ("tensor", None), (None, "fsdp"))):
        path = f"decoder/blocks/attn/{name}/lora"
        assert tuple(specs[f"{path}_a"].spec)[1:] == a and tuple(specs[f"{path}_b"].spec)[1:] == b
        assert tuple(specs[f"{path}_scale"].spec) == (None,)


@pytest.mark.heavy
def test_sharding_changes_the_loss_by_rounding_only(lora_runs, make_config, tmp_path):
    """The loss is the same up to rounding."""
    config = make_config(init={"": f"run:{lora_runs / 'base'}"}, **LORA)
    configs.merge(config, {"parallel": {"data": 2, "fsdp": 2, "tensor": 2}})
    run(config, tmp_path / "split")
    there, here = trace(tmp_path / "split"), trace(lora_runs / "adapted")
    np.testing.assert_allclose([x["loss"] for x in there], [x["loss"] for x in here], rtol=1e-4)
