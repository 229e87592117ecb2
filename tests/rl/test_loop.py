"""The loop of online RL on a tiny model: what it logs and stores, and how a stopped run resumes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.rl.rewards.function import read_rewards
from pivot_jax.rl.run import run
from pivot_jax.train.signals import Interrupted
from tests.rl.conftest import completions
from tests.tiny.kills import same_bits, trace
from tests.train.conftest import LORA, source, stop_at


def test_metrics_and_completions(rl_config, tmp_path):
    result = run(rl_config(), tmp_path / "run")
    assert result.step == 4
    lines = trace(tmp_path / "run")
    for line in lines:
        for name in ("reward", "reward_std", "rewards/count/mean", "completions/mean_length", "entropy", "policy_loss"):
            assert np.isfinite(line[name]), name
    rows = [json.loads(line) for line in (tmp_path / "run/completions/000000.jsonl").read_text().splitlines()]
    assert len(rows) == 16 and all(row["reward"] == row["completion"].count("e") for row in rows)
    assert lines[0]["reward"] == pytest.approx(np.mean([row["reward"] for row in rows]))
    assert lines[0]["completions/mean_length"] == pytest.approx(np.mean([row["tokens"] for row in rows]))
    assert len({row["completion"] for row in rows}) > 8  # sampled, not one answer


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.heavy_after(1)
def test_a_stopped_run_resumes_with_the_same_numbers(rl_config, tmp_path, at):
    """Stopped inside an update (after 1 and 3 of its 2 steps each) and between two rollouts."""
    config = rl_config(rl__minibatches=2, train__steps=6, eval__every=1, train__log_every=1)
    run(config, tmp_path / "whole", [stop_at()])
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stopped", [stop_at(at)])
    assert run(config, tmp_path / "stopped", [stop_at()]).step == 6
    assert trace(tmp_path / "stopped") == trace(tmp_path / "whole")
    assert completions(tmp_path / "stopped") == completions(tmp_path / "whole")
    same_bits(tmp_path / "stopped", tmp_path / "whole")


def test_the_first_update_of_a_rollout_is_on_policy(rl_config, tmp_path):
    """Recomputed log-probs of the sampler's tokens are the trainer's: every ratio is 1, and nothing is clipped."""
    run(rl_config(rl__epochs=2, train__steps=4), tmp_path / "run")
    lines = trace(tmp_path / "run")
    for line in lines[::2]:
        assert line["approx_kl"] < 1e-12 and line["clip_ratio/region_mean"] == 0
        assert line["sampling/sampling_logp_difference/max"] < 1e-4
    assert all(line["approx_kl"] > 1e-9 for line in lines[1::2])


PARTS = {
    "papo": {"rl__perception_coefficient": 0.02},
    "vppo": {"rl__token_weights": "vppo"},
    "tor": {"rl__token_weights": "tor"},
    "pepo": {"rl__token_weights": "pepo"},
    "noisy rollout": {"rl__noise_share": 0.5},
    "kl in the reward": {"rl__kl_coefficient": 0.1, "rl__kl": "k1", "rl__kl_in": "reward"},
    "kl in the loss": {"rl__kl_coefficient": 0.1, "rl__responses_per_row": 2, "train__accumulate": 2},
    "kl with adapters": {"rl__kl_coefficient": 0.1, **LORA},
    "maye": {"rl__algorithm": "maye", "rl__responses": 1, "rl__penalty_truncated": True},
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.heavy_after(2)
def test_every_part_runs_in_the_loop(rl_config, tmp_path, part):
    """Views with masked or noised images, a reference model, split groups: two updates that learn something."""
    run(rl_config(train__steps=2, **PARTS[part]), tmp_path / "run")
    lines = trace(tmp_path / "run")
    assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)
    if part == "papo":
        assert lines[0]["perception_kl"] > 0
    if part in ("kl in the loss", "kl with adapters"):
        assert lines[0]["kl"] == pytest.approx(0, abs=1e-6) and lines[1]["kl"] != 0


def test_pepo_weighs_tokens_more_and_more(rl_config, tmp_path):
    """At step 0 of 2 all tokens of a response have its advantage; halfway half of the weights, whose mean is 1."""
    run(rl_config(rl__token_weights="pepo", train__steps=2), tmp_path / "run")
    spreads = []
    for number in range(2):
        with np.load(tmp_path / f"run/rollouts/{number:06d}.npz") as stored:
            ends = np.cumsum(stored["lengths"])[:-1]
            advantages = np.split(stored["values/advantages"], ends)
        rows = [json.loads(line) for line in completions(tmp_path / "run")[f"{number:06d}.jsonl"].splitlines()]
        rewards = np.reshape([row["reward"] for row in rows], (4, 4))
        whole = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
        np.testing.assert_allclose([own.mean() for own in advantages], whole.ravel(), rtol=1e-4, atol=1e-5)
        spreads.append(max(np.ptp(own) for own in advantages))
    assert spreads[0] < 1e-6 < 1e-4 < spreads[1]


def test_held_out_prompts_are_answered_before_training_and_while_it_runs(rl_config, world, tmp_path):
    """Another number of responses than in training, and a number of prompts that is no multiple of a rollout's."""
    heldout = {"sources": ({**source(world, "llava"), "sampling": "first:6"},), "responses": 2}
    changes = {f"rl__heldout__{key}": value for key, value in heldout.items()}
    run(rl_config(**changes, eval__every=2, eval__at_start=True), tmp_path / "run")
    lines = {line["step"]: line for line in trace(tmp_path / "run")}
    for step in (0, 2, 4):
        rows = [json.loads(line) for line in (tmp_path / f"run/eval/heldout-{step}.jsonl").read_text().splitlines()]
        assert [(row["id"], row["sample"]) for row in rows] == [(f"row{i}", n) for i in range(6) for n in range(2)]
        assert all(row["reward"] == row["completion"].count("e") and row["version"] == step for row in rows)
        assert lines[step]["eval/heldout/reward"] == pytest.approx(np.mean([row["reward"] for row in rows]))
        assert lines[step]["eval/heldout/rewards/count"] == lines[step]["eval/heldout/reward"]


@pytest.mark.heavy
def test_a_run_may_end_inside_an_update(rl_config, tmp_path):
    assert run(rl_config(rl__minibatches=4, train__steps=5), tmp_path / "run").step == 5
    assert [line["step"] for line in trace(tmp_path / "run")] == [1, 2, 3, 4, 5]


def test_a_filter_samples_on_until_the_update_is_full(rl_config, tmp_path):
    config = rl_config(rl__algorithm="dapo", rl__filter="varied", rl__responses=2, rl__max_tokens=3, train__steps=3)
    run(config, tmp_path / "run")
    lines = trace(tmp_path / "run")
    assert any(line["sampling/rounds"] != 1 for line in lines)
    assert all(0 <= line["sampling/filtered_ratio"] < 1 for line in lines)
    kept = [json.loads(line) for text in completions(tmp_path / "run").values() for line in text.splitlines()]
    assert {row["trained"] for row in kept} == {True, False}


@pytest.mark.heavy
def test_reinforce_learns_to_write_the_rewarded_letter(rl_config, tmp_path):
    config = rl_config(
        rl__algorithm="reinforce++-baseline", train__steps=30, rl__responses=8, optimizer__rules=((".*", 1e-2),)
    )
    run(config, tmp_path / "run")
    rewards = [line["reward"] for line in trace(tmp_path / "run")]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rl__responses": 1}, "rl.responses: 1, but rl.advantage='grpo' compares"),
        ({"rl__minibatches": 3}, "data.batch_size: 4 prompts are not a multiple of rl.minibatches 3"),
        ({"rl__responses_per_row": 3}, "rl.responses: 4 is not a multiple of rl.responses_per_row=3"),
        ({"rl__rewards": ({"name": "exact", "column": "solution"},)}, "reads the column 'solution', which no row has"),
        ({"rl__filter_reward": "accuracy"}, "rl.filter_reward: no reward 'accuracy' in rl.rewards .labels: count"),
        ({"rl__advantage": "remax"}, "rl.advantage: 'remax' needs the reward of a greedy response, which training"),
        ({"rl__algorithm": "grop"}, "rl.algorithm: 'grop' is not allowed"),
        ({"rl__stop": ("<|image_pad|>",)}, "stop"),
        ({"objective__name": "sft"}, "rl.algorithm: 'trl-grpo', but objective.name='sft' is not online RL"),
    ],
)
def test_a_bad_config_is_an_error_before_the_first_rollout(rl_config, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(rl_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run" / "completions").exists()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("cuont", r"letters.py has no function 'cuont'; did you mean 'count'\? .functions: count.$"),
        ("prompts", "has no function 'prompts'"),
    ],
)
def test_a_misspelt_function_of_a_file_is_found_before_the_folder_is_made(
    rl_config, reward_file, tmp_path, function, message
):
    with pytest.raises(UserError, match=message):
        run(rl_config(rl__rewards=({"name": f"{reward_file}:{function}"},)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_function_that_a_file_imports_or_assigns_is_found(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("from math import sqrt as root\ndouble = lambda x: x\nif True:\n    def late(x): return x\n")
    for name in ("root", "double", "late"):
        read_rewards(({"name": f"{path}:{name}"},), 5.0)
    path.write_text("def broken(:\n")
    with pytest.raises(UserError, match="own.py:1: "):
        read_rewards(({"name": f"{path}:broken"},), 5.0)


@pytest.mark.heavy
def test_rollouts_that_teach_nothing_are_named_once(rl_config, tmp_path, caplog):
    """Five rollouts with one reward for all; the default rewards of :func:`rl_config` vary, and give no warning."""
    path = tmp_path / "same.py"
    path.write_text("def same(completions, **columns):\n    return [0.5 for _ in completions]\n")
    words = "3 rollouts in a row taught nothing: all responses to a prompt had the same reward (mean 0.5)"
    run(rl_config(rl__rewards=({"name": f"{path}:same"},), train__steps=5), tmp_path / "run")
    assert caplog.text.count(words) == 1
    caplog.clear()
    run(rl_config(), tmp_path / "other")
    assert "taught nothing" not in caplog.text


def test_a_misspelt_reward_is_found_before_the_folder_is_made(rl_config, tmp_path):
    with pytest.raises(UserError, match="there is no reward 'maths'; did you mean 'math'"):
        run(rl_config(rl__rewards=({"name": "maths"},)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
