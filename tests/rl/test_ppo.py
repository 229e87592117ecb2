"""PPO in the loop on a tiny model: the value head is trained, stored, resumed, and left out of what leaves the run."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from pivot_jax import hub, rules
from pivot_jax.errors import UserError
from pivot_jax.plan import program, topology
from pivot_jax.rl.run import run
from pivot_jax.train import checkpoint, contents, extract, hub_export
from pivot_jax.train import run as training
from pivot_jax.train.open import load
from pivot_jax.train.signals import Interrupted
from tests.rl.conftest import completions
from tests.tiny.kills import same_bits, trace
from tests.train.conftest import LORA, source, stop_at

HEAD = ("value/bias", "value/kernel")
FAST = (("value/.*", 0.1), (".*", 1e-3))


@pytest.fixture
def ppo_config(rl_config):
    """Function (overrides) → a run of PPO with two optimizer steps on each rollout."""

    def make(**changes):
        return rl_config(**{"rl__algorithm": "ppo", "rl__epochs": 2, "optimizer__rules": ((".*", 1e-3),)} | changes)

    return make


def head_of(workdir, step=None):
    return checkpoint.load_run(workdir, step)["value"]


@pytest.mark.heavy
def test_the_head_learns_the_returns(ppo_config, tmp_path):
    """Values start at 0; they rise to the mean return, and their loss falls."""
    config = ppo_config(train__steps=40, optimizer__rules=FAST, rl__responses=8, rl__value_clip=0.0)
    assert run(config, tmp_path / "run").step == 40
    lines = trace(tmp_path / "run")
    for line in lines:
        for name in ("loss", "policy_loss", "value/loss", "value/clip_ratio", "value/mean", "approx_kl", "grad_norm"):
            assert np.isfinite(line[name]), name
    assert lines[0]["value/mean"] == 0 and lines[0]["value/explained_variance"] == pytest.approx(0, abs=1e-3)
    returns = lines[0]["value/returns_mean"]
    assert returns > 0.05  # otherwise 0 would be right
    losses = [line["value/loss"] for line in lines]
    assert np.mean(losses[-6:]) < 0.7 * np.mean(losses[:2])
    assert lines[-1]["value/mean"] == pytest.approx(lines[-2]["value/returns_mean"], abs=0.5 * abs(returns) + 0.2)
    np.testing.assert_allclose(lines[0]["loss"], lines[0]["policy_loss"] + 0.1 * losses[0], rtol=1e-4, atol=1e-6)


@pytest.mark.heavy
def test_values_tell_prompts_apart(ppo_config, reward_file, tmp_path):
    """The reward is 1 for red images, whatever the answer is; with λ = 1 it is the return at every token."""
    reward_file.write_text(
        "def count(prompts, completions, answer, **columns):\n    return [float('red' in one) for one in answer]\n"
    )
    rates = (("value/.*", 1e-2), (".*", 3e-3))
    config = ppo_config(
        train__steps=60, optimizer__rules=rates, rl__gae_lambda=1.0, rl__value_coefficient=1.0, rl__value_clip=0.0,
        rl__responses=2, data__batch_size=12,
    )  # fmt: skip
    run(config, tmp_path / "run")
    lines = trace(tmp_path / "run")
    explained = [line["value/explained_variance"] for line in lines[::2]]
    assert explained[0] == pytest.approx(0, abs=1e-3) and np.mean(explained[-3:]) > 0.5
    assert np.mean([line["value/loss"] for line in lines[-6:]]) < 0.5 * lines[0]["value/loss"]


def test_the_first_step_of_an_update_is_on_policy_in_values_too(ppo_config, tmp_path):
    """The stored values are those that the step computes, so nothing is clipped; in the second step they moved."""
    run(ppo_config(train__steps=6, optimizer__rules=FAST, rl__value_clip=0.01), tmp_path / "run")
    lines = trace(tmp_path / "run")
    assert all(line["approx_kl"] < 1e-12 and line["value/clip_ratio"] == 0 for line in lines[::2])
    assert all(line["approx_kl"] > 1e-9 for line in lines[1::2])
    assert max(line["value/clip_ratio"] for line in lines[1::2]) > 0


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.heavy_after(1)
def test_a_stopped_run_resumes_with_the_same_bits(ppo_config, tmp_path, at):
    """Stopped inside an update (after 1 of its 2 steps) and between two rollouts."""
    config = ppo_config(train__steps=5, eval__every=1, optimizer__rules=FAST)
    run(config, tmp_path / "whole", [stop_at()])
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stopped", [stop_at(at)])
    assert run(config, tmp_path / "stopped", [stop_at()]).step == 5
    assert trace(tmp_path / "stopped") == trace(tmp_path / "whole")
    assert completions(tmp_path / "stopped") == completions(tmp_path / "whole")
    same_bits(tmp_path / "stopped", tmp_path / "whole")
    assert np.any(head_of(tmp_path / "whole")["kernel"])


PARTS = {
    "one step": {"rl__epochs": 1},
    "minibatches and a kl reward": {
        "rl__epochs": 1, "rl__minibatches": 2, "rl__kl_coefficient": 0.1, "rl__kl": "k1", "rl__kl_in": "reward",
        "rl__responses_per_row": 2,
    },
    "one response": {"rl__responses": 1, "rl__gamma": 0.9, "train__accumulate": 2},
    "rewards that do not apply": {"rl__responses": 2, "train__steps": 4},
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.heavy_after(1)
def test_ppo_composes_with_other_parts(ppo_config, reward_file, tmp_path, part):
    if part == "rewards that do not apply":
        reward_file.write_text(
            "def count(prompts, completions, **columns):\n"
            '    return [None if len(c) % 2 else float(c.count("e")) for c in completions]\n'
        )
    run(ppo_config(**{"train__steps": 2, **PARTS[part]}), tmp_path / "run")
    lines = trace(tmp_path / "run")
    assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 and line["value/loss"] > 0 for line in lines)


@pytest.mark.heavy
def test_the_head_is_in_the_run_and_in_nothing_that_leaves_it(ppo_config, tmp_path):
    workdir = tmp_path / "run"
    run(ppo_config(train__steps=2), workdir)
    saved = checkpoint.saved_in_run(workdir, 2)
    assert {path for path in saved if path.startswith("value/")} == set(HEAD)
    rows = json.loads((workdir / "trained_parameters.json").read_text())
    assert {"group": "value", "parameters": 33, "rate": 1e-3} in rows
    assert set(HEAD) <= set(contents.of_weights(f"run:{workdir}").leaves)

    opened = load(f"run:{workdir}")
    assert "value" not in opened.params and opened.chat("What colour is it?", [np.zeros((16, 16, 3), np.uint8)]) != ""
    opened.export(tmp_path / "opened")
    hub_export.export(workdir, tmp_path / "exported")
    hub_export.export(workdir, tmp_path / "decoder", part="decoder")
    for folder in ("opened", "exported"):
        names = {path.split("/")[0] for path in rules.flatten(hub.load_params(tmp_path / folder))}
        assert names == {"vision", "projector", "decoder"}
    extract.extract(workdir, tmp_path / "pack")
    assert set(load(f"pack:{tmp_path / 'pack'}").params) == {"vision", "projector"}


@pytest.mark.heavy
def test_a_head_is_taken_from_the_source_where_it_has_one_and_else_fresh(ppo_config, make_config, tmp_path):
    sft, first, again, back = (tmp_path / name for name in ("sft", "first", "again", "back"))
    training.run(make_config(train__steps=1), sft)
    run(ppo_config(train__steps=2, init={"": f"run:{sft}"}), first)
    head, trunk = head_of(first), checkpoint.load_run(first)["decoder"]["embed"]
    assert np.any(head["kernel"])
    frozen = (("value/.*", "frozen"), (".*", 1e-3))
    run(ppo_config(train__steps=1, init={"": f"run:{first}"}, optimizer__rules=frozen), again)
    jax.tree.map(np.testing.assert_array_equal, head_of(again), head)
    assert not np.array_equal(checkpoint.load_run(again)["decoder"]["embed"], trunk)
    training.run(make_config(train__steps=1, init={"": f"run:{first}"}), back)  # SFT has no head
    assert "value" not in checkpoint.load_run(back)
    run(ppo_config(train__steps=1, init={"": f"run:{sft}", "value": f"run:{first}"}), tmp_path / "mixed")


@pytest.mark.heavy
def test_a_hugging_face_folder_and_a_pack_start_a_fresh_head(ppo_config, make_config, tmp_path):
    sft, folder, pack = (tmp_path / name for name in ("sft", "folder", "pack"))
    training.run(make_config(train__steps=1), sft)
    hub_export.export(sft, folder)
    extract.extract(sft, pack)
    init = {"": f"hf:{folder}", "vision": f"pack:{pack}"}
    run(ppo_config(train__steps=1, init=init), tmp_path / "run")
    assert np.any(head_of(tmp_path / "run")["bias"])


@pytest.mark.heavy
def test_with_lora_the_head_is_trained_whole_and_the_base_is_the_reference(ppo_config, tmp_path):
    targets = (("decoder/blocks/attn/.*/kernel", 3), (".*/kernel", "none"), (".*", "none"))
    config = ppo_config(**LORA | {"lora__targets": targets}, train__steps=4, rl__kl_coefficient=0.1, rl__epochs=1)
    run(config, tmp_path / "run")
    raw = rules.flatten(checkpoint.load_run(tmp_path / "run", merge=False))
    assert {path for path in raw if path.startswith("value/")} == set(HEAD)
    assert np.any(raw["value/kernel"]) and np.any(raw["value/bias"])
    saved = checkpoint.metadata((tmp_path / "run/checkpoints/4/state").absolute())
    trained = rules.flatten(saved["trained"])
    assert {path for path in trained if "lora_" not in path} == set(HEAD)
    lines = trace(tmp_path / "run")
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6) and lines[-1]["kl"] != 0
    hub_export.export(tmp_path / "run", tmp_path / "adapter", part="adapter")
    tensors = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert tensors and all("lora_" in name for name in tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rl__algorithm": "dapo", "rl__value_clip": 0.2}, "rl.value_clip: 0.2, but with rl.advantage='grpo' nothing"),
        ({"rl__advantage": "rloo"}, "rl.gae_lambda: 0.9, but with rl.advantage='rloo' nothing reads it"),
        ({"rl__algorithm": ""}, "rl.algorithm: empty, but objective.name='policy' needs one"),
        ({"optimizer__rules": (("decoder/.*", 1e-3), ("(vision|projector)/.*", 1e-3))}, "value/"),
        ({"init": {"value": "run:{sft}"}}, "init: run:.* has no parameter 'value/bias'"),
    ],
)
def test_bad_configs_are_one_clear_line(ppo_config, make_config, tmp_path, changes, message):
    if "init" in changes:
        training.run(make_config(train__steps=1), tmp_path / "sft")
        changes = {"init": {"value": f"run:{tmp_path / 'sft'}"}}
    changes = {"rl__gae_lambda": 0.9} | changes if "rl__advantage" in changes else changes
    with pytest.raises(UserError, match=message) as error:
        run(ppo_config(**changes), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "completions").exists()


def test_the_update_is_planned_with_its_head(ppo_config):
    """Parameters and moments of 33 more numbers, and a batch with values and returns; it compiles."""
    here = topology.Topology("cpu", topology.CHIPS["h200"], 1, 1, jax.devices()[:1])
    planned = [program.prepare(ppo_config(rl__advantage=name), here) for name in ("gae", "rloo")]
    state, batch, _ = program.step_arguments(planned[0], (128, 64), 4)
    assert state.trained["value"]["kernel"].shape == (32, 1)
    assert batch.returns.shape == batch.old_values.shape == (4, 64)
    held = [program.held(program.step_arguments(one, (128, 64), 4)) for one in planned]
    assert held[0]["parameters"] - held[1]["parameters"] == 4 * 33
    assert held[0]["optimizer"] - held[1]["optimizer"] == 2 * 4 * 33
    assert program.compile_step(planned[0], here, (128, 64), 4).flops > 0


def test_without_gae_no_run_has_a_head_and_its_rule_matches_nothing(rl_config, tmp_path):
    with pytest.raises(UserError, match=r"optimizer.rules: 'value/.\*' matches no parameter"):
        run(rl_config(optimizer__rules=FAST), tmp_path / "run")


def test_heldout_prompts_are_answered_with_the_head_in_the_state(ppo_config, world, tmp_path):
    heldout = {"sources": ({**source(world, "llava"), "sampling": "first:4"},), "responses": 1}
    changes = {f"rl__heldout__{key}": value for key, value in heldout.items()}
    run(ppo_config(**changes, eval__every=2, train__steps=2), tmp_path / "run")
    assert np.isfinite(trace(tmp_path / "run")[-1]["eval/heldout/reward"])
