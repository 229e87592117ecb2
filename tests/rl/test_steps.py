"""The four steps of online RL called one by one: they are those of a run, and their token losses those of its loss."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import pivot_jax as pj
from pivot_jax import rules
from pivot_jax.models import stacking
from pivot_jax.rl.run import run
from pivot_jax.train import checkpoint
from tests.rl.conftest import completions
from tests.tiny.kills import trace


def test_they_are_the_steps_of_a_run(rl_config, tmp_path):
    """Two rollouts of two updates each, with a reference: responses, metrics and parameters are those of a run."""
    config = rl_config(rl__epochs=2, rl__kl_coefficient=0.1, rl__importance="none")
    run(config, tmp_path / "run")
    texts, lines = [], []
    with pj.OnlineRL(config) as rl:
        for number in range(2):
            assert rl.rollout == number and rl.step == 2 * number
            prompts = rl.prompts()
            rollouts = rl.responses(prompts)
            groups, scores = rl.rewards(prompts, rollouts)
            assert scores.total.shape == (16,) and [len(group.responses) for group in groups] == [4] * 4
            texts += [text for own in rl.texts(rollouts) for text in own]
            trajectory = rl.trajectory(groups)
            lines += [rl.update(batch) for batch in rl.minibatches(trajectory)]
        ours = jax.device_get(stacking.stacked(rl.params))
    logged = "".join(completions(tmp_path / "run").values()).splitlines()
    assert texts == [json.loads(line)["completion"] for line in logged]
    for line, logged in zip(lines, trace(tmp_path / "run"), strict=True):
        assert line == {name: logged[name] for name in line}
    trained = rules.flatten(checkpoint.load_run(tmp_path / "run", 4))
    assert trained.keys() == rules.flatten(ours).keys()
    for path, value in rules.flatten(ours).items():
        np.testing.assert_array_equal(value, trained[path], err_msg=path)


def test_the_loss_of_a_batch_is_the_mean_of_its_tokens_losses(rl_config):
    """Of the responses' tokens alone, in order; the ratio moves with the policy, and the clip cuts at its bounds."""
    config = rl_config(rl__epochs=3, rl__responses_per_row=2, optimizer__rules=((".*", 1e-2),), rl__importance="none")
    with pj.OnlineRL(config) as rl:
        prompts = rl.prompts()
        rollouts = rl.responses(prompts)
        groups, _ = rl.rewards(prompts, rollouts)
        trajectory, found, metrics = rl.trajectory(groups), [], []
        for batch in rl.minibatches(trajectory):
            found.append(rl.token_losses(batch))
            metrics.append(rl.update(batch))
        low, high = 1 - rl.algorithm.clip_low, 1 + rl.algorithm.clip_high
    responses = [one for group in groups for one in group.responses]
    for own, line in zip(found, metrics, strict=True):
        assert own.tokens.tolist() == np.concatenate([one.tokens for one in responses]).tolist()
        assert own.responses.tolist() == np.repeat(np.arange(16), [len(one.tokens) for one in responses]).tolist()
        assert own.losses.mean() == pytest.approx(line["loss"], abs=1e-6)
        assert own.clip["clip_ratio/region_mean"].mean() == pytest.approx(line["clip_ratio/region_mean"], abs=1e-6)
        np.testing.assert_allclose(own.ratios, np.exp(own.logps - own.old_logps), rtol=1e-5)
        bounded = np.clip(own.ratios, low, high)
        expected = -np.minimum(own.ratios * own.advantages, bounded * own.advantages)
        np.testing.assert_allclose(own.losses, expected, atol=1e-5)
    assert np.allclose(found[0].ratios, 1, atol=1e-4) and not found[0].clip["clip_ratio/region_mean"].any()
    assert found[2].clip["clip_ratio/region_mean"].any()
    np.testing.assert_allclose(found[0].old_logps, np.concatenate([one.logps for one in responses]), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective__name": "sft", "rl__algorithm": ""}, "objective.name: 'sft' is not online RL"),
        ({"rl__rewards": ({"name": "nothing"},)}, "rl.rewards.0.name: there is no reward 'nothing'"),
        ({"rl__algorithm": "dapo"}, "rl.filter: 'mean_inside' needs the whole loop; set it to 'none', or"),
    ],
)
def test_wrong_configs_are_one_line(rl_config, changes, message):
    with pytest.raises(pj.UserError, match=message):
        pj.OnlineRL(rl_config(**changes))
    with pytest.raises(pj.UserError, match=r"is a path; write pj.config\('demo/grpo.py'\)"):
        pj.OnlineRL("demo/grpo.py")
