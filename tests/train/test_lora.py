"""Runs that train LoRA adapters: which parameters change, opening, resuming, and the reference of DPO."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax import hub, rules
from pivot_jax.cli import main as cli
from pivot_jax.errors import UserError
from pivot_jax.hub import adapter
from pivot_jax.models import lora, zoo
from pivot_jax.train import checkpoint
from pivot_jax.train.metrics import read
from pivot_jax.train.open import open_run
from pivot_jax.train.run import run
from pivot_jax.train.signals import Interrupted
from pivot_jax.train.source import load_params
from tests.train.conftest import LORA, source, stop_at
from tests.train.test_resume import same_bits, trace

ADAPTED = {
    *(f"decoder/blocks/attn/{name}/kernel" for name in ("q", "k", "v", "out")),
    *("decoder/blocks/mlp/up/kernel", "vision/blocks/attn/q/kernel"),
}


def test_only_adapters_change_and_the_run_opens_merged(lora_runs):
    base = rules.flatten(checkpoint.load_run(lora_runs / "base"))
    raw = rules.flatten(checkpoint.load_run(lora_runs / "adapted", merge=False))
    assert {lora.kernel_of(path) for path in raw if lora.is_adapter(path)} == ADAPTED
    for path, leaf in base.items():
        np.testing.assert_array_equal(raw[path], leaf, err_msg=path)
    whole = rules.flatten(checkpoint.load_run(lora_runs / "adapted"))
    assert whole.keys() == base.keys()
    assert {path for path in base if not np.array_equal(base[path], whole[path])} == ADAPTED
    path = "decoder/blocks/attn/out/kernel"
    a, b, scale = (raw[lora.beside(path, leaf)] for leaf in lora.LEAVES)
    assert a.shape == (2, 32, 3) and b.any() and np.allclose(scale, 16 / 3)
    product = np.einsum("l,lir,lro->lio", scale, a, b)
    np.testing.assert_allclose(whole[path], base[path] + product, rtol=1e-5, atol=1e-6)
    opened = rules.flatten(open_run(lora_runs / "adapted").params)
    np.testing.assert_array_equal(opened[path], whole[path])
    np.testing.assert_array_equal(rules.flatten(load_params(f"run:{lora_runs / 'adapted'}"))[path], whole[path])


def test_the_table_lists_the_trained_parameters(lora_runs):
    rows = json.loads((lora_runs / "adapted" / "trained_parameters.json").read_text())
    moving = {row["group"]: (row["parameters"], row["rate"]) for row in rows if row["rate"] != "frozen"}
    assert moving == {
        "vision/blocks LoRA, rank 2": (2 * 2 * (16 + 16), 1e-3),
        "decoder LoRA, rank 3": (2 * 3 * (2 * (32 + 32) + 2 * (32 + 16)), 1e-2),
        "decoder LoRA, rank 2": (2 * 2 * (32 + 48), 1e-2),
    }
    flops = read(lora_runs / "adapted" / "metrics.jsonl")[-1]
    assert flops["loss"] < read(lora_runs / "adapted" / "metrics.jsonl")[0]["loss"]


def test_a_stopped_run_resumes_with_the_same_bits(lora_runs, make_config, tmp_path):
    config = make_config(init={"": f"run:{lora_runs / 'base'}"}, eval__every=1, **LORA)
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stopped", [stop_at(1)])
    assert run(config, tmp_path / "stopped", [stop_at()]).step == 3
    same_bits(tmp_path / "stopped", lora_runs / "adapted")
    assert trace(tmp_path / "stopped") == trace(lora_runs / "adapted")


@pytest.mark.heavy
def test_dpo_starts_at_the_base_and_needs_no_copy_of_it(lora_runs, world, make_config, tmp_path):
    """The reference is the model without its adapters: stored or in the step it is the same, and rewards start at 0."""
    pairs = dict(objective__name="dpo", data__sources=(source(world, "next_dpo"),))
    logs = {}
    for reference in ("stored", "step"):
        start = {"": f"run:{lora_runs / 'base'}"}
        config = make_config(init=start, **pairs, **LORA, objective__reference=reference)
        run(config, tmp_path / reference)
        logs[reference] = trace(tmp_path / reference)
    assert logs["step"][0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert logs["step"][0]["loss"] == pytest.approx(np.log(2), rel=1e-5)
    for stored, step in zip(logs["stored"], logs["step"], strict=True):
        assert stored.keys() == step.keys()
        for name in stored:
            assert stored[name] == pytest.approx(step[name], rel=1e-3, abs=1e-4), name
    assert abs(logs["step"][-1]["rewards/margins"]) > 1e-3


@pytest.mark.heavy
def test_a_parameter_with_target_full_is_trained_itself(lora_runs, world, make_config, tmp_path):
    """Besides adapters, as PEFT's modules_to_save; the reference of DPO is then the starting weights."""
    targets = (("projector/.*", "full"), *LORA["lora__targets"])
    pairs = dict(objective__name="dpo", data__sources=(source(world, "next_dpo"),))
    changes = LORA | {"lora__targets": targets, "objective__reference": "step"}
    run(make_config(init={"": f"run:{lora_runs / 'base'}"}, **pairs, **changes), tmp_path)
    base, raw = (rules.flatten(checkpoint.load_run(at, merge=False)) for at in (lora_runs / "base", tmp_path))
    moved = {path for path in base if not np.array_equal(base[path], raw[path])}
    assert moved == {path for path in base if path.startswith("projector/")}
    assert trace(tmp_path)[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)


@pytest.mark.heavy
def test_a_run_starts_from_a_peft_folder(lora_runs, make_config, tmp_path):
    """One run exports its adapter and another starts from it; another rank, scale or target is an error."""
    config = configs.from_json((lora_runs / "adapted" / "config.json").read_text())
    model = zoo.build(config.model, config.data.image)
    raw = checkpoint.load_run(lora_runs / "adapted", merge=False)
    found = hub.HubModel("llava", model.vision, model.decoder, model.projector)
    adapter.write(raw, found, tmp_path / "peft")
    start = {"init": {"": f"run:{lora_runs / 'base'}"}, "lora__init": f"peft:{tmp_path / 'peft'}"}
    frozen = {"optimizer__rules": (("vision/.*", 0.0), (".*", 0.0))}
    run(make_config(train__steps=1, **{**LORA, **start, **frozen}), tmp_path / "again")
    again = rules.flatten(checkpoint.load_run(tmp_path / "again", merge=False))
    for path, leaf in rules.flatten(lora.adapter(raw)).items():
        np.testing.assert_allclose(again[path], leaf, rtol=1e-6, err_msg=path)
    for change, message in (
        ({"lora__rank": 4}, r"lora_a' is \[2, 32, 2\], lora.rank and lora.targets ask for \[2, 32, 4\]"),
        ({"lora__alpha": 8.0}, r"scales '.*' by 5.33333, lora.alpha and rank say 2.66667; set lora.alpha=16"),
        (
            {"lora__targets": LORA["lora__targets"][1:]},
            "has an adapter at 'vision/.*', which lora.targets do not name",
        ),
        ({"lora__targets": (("projector/fc1/kernel", 2), *LORA["lora__targets"])}, "no adapter at 'projector/fc1/"),
        ({"lora__init": f"peft:{tmp_path}"}, "adapter_config.json is missing"),
    ):
        with pytest.raises(UserError, match=message):
            run(make_config(train__steps=1, **{**LORA, **start, **change}), tmp_path / "refused")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora__targets": ((".*", "lora"),)}, r"'.*' \[.*\] is not a linear layer's kernel and takes no adapter"),
        ({"lora__targets": (("decoder/blocks/atn/.*", "lora"), (".*", "none"))}, "'decoder/blocks/atn/.*' matches no"),
        ({"lora__targets": (("decoder/.*", "none"),)}, "lora.targets: no rule matches parameter"),
        ({"lora__targets": ((".*", "none"),)}, "lora.targets: nothing is left to train"),
        ({"optimizer__rules": (("projector/.*", 1.0), (".*", "frozen"))}, "lora.targets: nothing is left to train"),
    ],
)
def test_targets_that_do_not_fit_the_model_are_rejected(make_config, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(make_config(**{"lora__rank": 2, **changes}), tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lora.targets", ((".*", "loar"),), "lora.targets: '.*' has 'loar'; allowed: 'lora', a rank of at least 1"),
        ("lora.targets", ((".*", 0),), "has 0; allowed"),
        ("lora.rank", -1, "lora.rank: -1 is not allowed; it must be at least 0"),
        ("lora.init", "hf:folder", "lora.init: 'hf:folder' is not allowed; write peft:DIR"),
        ("lora.init", "peft:folder", "with lora.rank=0, which turns LoRA off"),
    ],
)
def test_settings_out_of_range_are_rejected(key, value, message):
    with pytest.raises(UserError, match=message):
        config = configs.base()
        configs.merge(config, {key: value})
        configs.validate(config)


def test_adapters_are_initialised_as_in_peft():
    """A is uniform in ±1/sqrt(in), different for each layer and kernel; B is zero."""
    kernels = {"decoder/blocks/attn/q/kernel": (3, 64, 8), "projector/fc1/kernel": (64, 8)}
    ranks = {path: 16 for path in kernels}
    flat = rules.flatten(lora.create(jax.random.key(0), kernels, ranks, 8.0, True))
    a = np.asarray(flat["decoder/blocks/attn/q/lora_a"])
    assert np.abs(a).max() <= 1 / 8 and np.std(a) == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    assert not np.array_equal(a[0], a[1]) and not np.array_equal(a[0], flat["projector/fc1/lora_a"])
    assert not flat["projector/fc1/lora_b"].any() and float(flat["projector/fc1/lora_scale"]) == 8 / 16**0.5


def test_a_run_exports_by_the_command_line_and_imports_again(lora_runs, tmp_path, capsys):
    """Merged, and as base and adapter: both equal the run's parameters; an export reads one parameter at a time."""
    merged = rules.flatten(checkpoint.load_run(lora_runs / "adapted"))
    lazy = rules.flatten(checkpoint.lazy_run(lora_runs / "adapted"))
    assert lazy.keys() == merged.keys()
    for path in ("decoder/blocks/attn/q/kernel", "decoder/embed"):
        np.testing.assert_array_equal(lazy[path].read(), merged[path])

    def call(*argv):
        assert cli.main([str(word) for word in argv]) == 0

    call("export-hf", "--workdir", lora_runs / "adapted", "--out", tmp_path / "merged")
    call("export-hf", "--workdir", lora_runs / "base", "--out", tmp_path / "base")
    call("export-hf", "--workdir", lora_runs / "adapted", "--what", "adapter", "--out", tmp_path / "adapter")
    call("import-hf", "--folder", tmp_path / "base", "--adapter", tmp_path / "adapter", "--workdir", tmp_path / "back")
    again = rules.flatten(checkpoint.load_run(tmp_path / "back"))
    from_hub = rules.flatten(hub.load_params(tmp_path / "merged"))
    for path, leaf in merged.items():
        np.testing.assert_allclose(again[path], leaf, rtol=1e-6, atol=1e-7, err_msg=path)
        np.testing.assert_array_equal(from_hub[path], leaf, err_msg=path)
    capsys.readouterr()
    argv = ["export-hf", "--workdir", lora_runs / "base", "--what", "adapter", "--out", tmp_path / "none"]
    assert cli.main([str(word) for word in argv]) == 1
    assert "was trained without LoRA (lora.rank is 0)" in capsys.readouterr().err
