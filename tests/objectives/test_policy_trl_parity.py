"""Policy losses and advantages compared with TRL's own trainers, live: values, gradients and metrics.

TRL's loss functions run on a trainer without a model; what its forward pass would return is set by the test.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl import GRPOTrainer, RLOOTrainer
from trl.experimental.gmpo import GMPOTrainer

from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.importance import correction
from tests.tiny.responses import Layout, loss_of

LENGTHS = (5, 2, 7, 1, 4, 4, 6, 3)
# TRL's loss_type → our parts
LOSSES = {
    "grpo": dict(clip="ppo", aggregation="sequence_mean"),
    "bnpo": dict(clip="ppo", aggregation="microbatch_token_mean"),
    "dr_grpo": dict(clip="ppo", aggregation="constant"),
    "dapo": dict(clip="ppo", aggregation="token_mean"),
    "luspo": dict(clip="ppo", aggregation="sequence_sum"),
    "cispo": dict(clip="cispo-trl", aggregation="token_mean"),
    "sapo": dict(clip="sapo", aggregation="sequence_mean"),
    "vespo": dict(clip="vespo", aggregation="token_mean"),
}
OPTIONS = {
    "plain": {},
    "on policy": {"on_policy": True},
    "wide clip": {"clip_low": 0.1, "clip_high": 0.35},
    "k3": {"kl_coefficient": 0.3},
    "k3, corrected": {"kl_coefficient": 0.3, "kl": "k3_corrected"},
    "token_truncate": {"importance": "token_truncate", "importance_high": 1.1, "importance_low": 0.8},
    "token_mask": {"importance": "token_mask", "importance_high": 1.2},
    "sequence_truncate": {"importance": "sequence_truncate", "importance_high": 1.3},
    "sequence_mask": {"importance": "sequence_mask", "importance_high": 1.3},
    "opsm": {"off_policy_threshold": 0.05},
    "entropy": {"entropy_coefficient": 0.2},
}


def draw(seed=0):
    """Arrays [N, t] of responses: log-probs now, before, of the reference and of the sampler; entropies; advantages."""
    rng = np.random.default_rng(seed)
    shape = len(LENGTHS), max(LENGTHS)
    logps = -rng.exponential(1.0, shape).astype(np.float32)
    drift = {
        name: (logps + rng.normal(0, s, shape)).astype(np.float32)
        for name, s in (("old_logps", 0.2), ("ref_logps", 0.5), ("sampling_logps", 0.3))
    }
    mask = np.arange(shape[1]) < np.asarray(LENGTHS)[:, None]
    advantages = np.where(mask, rng.normal(size=(shape[0], 1)), 0).astype(np.float32)
    return SimpleNamespace(
        logps=logps, mask=mask, entropy=rng.uniform(0, 3, shape).astype(np.float32), advantages=advantages, **drift
    )


class Accelerator:
    num_processes, sync_gradients, is_main_process, device = 1, True, False, "cpu"

    def reduce(self, x, reduction):
        return x

    def gather(self, x):
        return x


def trainer(kind, algorithm, **more):
    """A trainer of TRL's with the settings that its loss reads, and no model."""
    made = object.__new__(kind)
    args = SimpleNamespace(
        use_bias_correction_kl=algorithm.kl == "k3_corrected",
        delta=algorithm.clip_cap if algorithm.clip == "dual" else None,
        sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
        vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0,
        steps_per_generation=more.get("current_gradient_accumulation_steps", 1),
    )  # fmt: skip
    made.__dict__.update(
        accelerator=Accelerator(), args=args, model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        aux_loss_enabled=False, top_entropy_quantile=1.0, max_completion_length=16,
        current_gradient_accumulation_steps=1,
        importance_sampling_level=algorithm.ratio, beta=algorithm.kl_coefficient,
        epsilon_low=algorithm.clip_low, epsilon_high=algorithm.clip_high,
        off_policy_mask_threshold=algorithm.off_policy_threshold or None,
        use_vllm=algorithm.importance != "none", vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=algorithm.entropy_coefficient != 0, use_adaptive_entropy=False,
        entropy_coef=algorithm.entropy_coefficient,
    )  # fmt: skip
    made.__dict__.update(more)
    return made


def trl_loss(made, data, importance, accumulate=1, on_policy=False):
    """(loss, gradient in logps, gradient in entropy) of the batch in micro-batches of rows i, i + accumulate, …"""
    logps, entropy = (torch.tensor(x, requires_grad=True) for x in (data.logps, data.entropy))
    mask = torch.tensor(data.mask.astype(np.float32))
    made.current_gradient_accumulation_steps = accumulate
    made.args.steps_per_generation = accumulate
    total = 0.0
    for i in range(accumulate):
        rows = slice(i, None, accumulate)
        made._get_per_token_logps_and_entropies = lambda *a, rows=rows, **k: (logps[rows], entropy[rows], None)
        inputs = {
            "prompt_ids": torch.zeros(len(mask[rows]), 1, dtype=torch.long),
            "prompt_mask": torch.ones(len(mask[rows]), 1),
            "completion_ids": torch.zeros(mask[rows].shape, dtype=torch.long),
            "completion_mask": mask[rows],
            "advantages": torch.tensor(data.advantages[:, 0])[rows],
            "num_items_in_batch": mask.sum(),
            "ref_per_token_logps": torch.tensor(data.ref_logps)[rows],
            "sampling_per_token_logps": torch.tensor(data.sampling_logps)[rows],
        }
        if not on_policy:
            inputs["old_per_token_logps"] = torch.tensor(data.old_logps)[rows]
            inputs["old_logps"] = (inputs["old_per_token_logps"] * mask[rows]).sum(1)
        if importance is not None:
            inputs["importance_sampling_ratio"] = importance[rows]
        total = total + made.compute_loss(None, inputs)
    total.backward()
    grads = (np.zeros_like(data.logps) if x.grad is None else x.grad.numpy() * data.mask for x in (logps, entropy))
    return total.item(), *grads


def trl_importance(algorithm, data):
    """TRL's weights: [N, t] of a token mode, [N, 1] of a sequence mode."""
    difference = torch.tensor((data.old_logps - data.sampling_logps) * data.mask)
    if algorithm.importance.startswith("sequence"):
        difference = difference.sum(1, keepdim=True)
    ratio, low, high = torch.exp(difference), algorithm.importance_low, algorithm.importance_high
    if algorithm.importance.endswith("truncate"):
        return torch.clamp(ratio, low, high)
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)


def stored(data, algorithm, on_policy=False):
    """The arrays of a batch that the algorithm reads."""
    found = {"advantages": data.advantages, "sampling_logps": data.sampling_logps}
    if not on_policy:
        found["old_logps"] = data.old_logps
    if algorithm.kl_coefficient:
        found["ref_logps"] = data.ref_logps
    if algorithm.importance != "none":
        found["importance"] = correction(algorithm, data.old_logps, data.sampling_logps, data.mask).weights
    return found


def assert_equal(algorithm, data, made, importance=None, accumulate=1, on_policy=False, n=1):
    want = trl_loss(made, data, importance, accumulate, on_policy)
    layout = Layout(LENGTHS, n, padding=2)
    got = loss_of(
        algorithm, layout, data.logps, entropy=data.entropy, accumulate=accumulate,
        **stored(data, algorithm, on_policy),
    )  # fmt: skip
    np.testing.assert_allclose(got[0], want[0], atol=1e-5, rtol=1e-5)
    for a, b in zip(got[1:3], want[1:], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
    assert np.abs(want[1]).max() > 1e-3
    return {name: values[-1] for name, values in made._metrics["train"].items()}, got[3]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_losses_gradients_and_metrics_equal_those_of_grpo_trainer(loss_type, level, option):
    """Every ``loss_type`` at both ``importance_sampling_level``s, with each option of the loss."""
    options = dict(OPTIONS[option])
    on_policy = options.pop("on_policy", False)
    if loss_type == "cispo":
        options["clip_high"] = 1.15
    algorithm = Algorithm(ratio=level, **LOSSES[loss_type], **options)
    data = draw()
    made = trainer(GRPOTrainer, algorithm, loss_type=loss_type)
    importance = trl_importance(algorithm, data) if algorithm.importance != "none" else None
    theirs, ours = assert_equal(algorithm, data, made, importance, on_policy=on_policy)
    for name in set(theirs) - {"clip_ratio/low_min", "clip_ratio/high_max", "entropy_coef"}:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, rtol=1e-5, err_msg=name)
    assert {"entropy"} <= set(theirs)


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.heavy_after(1)
def test_micro_batches_and_groups_in_a_row_equal_grpo_trainer(loss_type):
    """Accumulation over 2 and 4 micro-batches; the same responses as rows of 4."""
    algorithm = Algorithm(**LOSSES[loss_type], **({"clip_high": 1.15} if loss_type == "cispo" else {}))
    data = draw(1)
    for accumulate in (2, 4):
        assert_equal(algorithm, data, trainer(GRPOTrainer, algorithm, loss_type=loss_type), accumulate=accumulate)
    assert_equal(algorithm, data, trainer(GRPOTrainer, algorithm, loss_type=loss_type), n=4)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_dual_clip_equals_grpo_trainers_delta(level):
    algorithm = Algorithm(ratio=level, clip="dual", clip_cap=1.25, aggregation="token_mean")
    data = draw(2)
    data.advantages = -np.abs(data.advantages)
    data.old_logps = data.logps - np.linspace(-0.1, 0.6, len(LENGTHS), dtype=np.float32)[:, None]
    assert_equal(algorithm, data, trainer(GRPOTrainer, algorithm, loss_type="dapo"))


def test_the_response_as_one_action_equals_rloo_trainer():
    algorithm = Algorithm(ratio="sequence_product", aggregation="sequence_mean")
    data = draw(3)
    theirs, ours = assert_equal(algorithm, data, trainer(RLOOTrainer, algorithm))
    for name in ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_gmpo_equals_gmpo_trainer(kl):
    algorithm = Algorithm(clip="gmpo", aggregation="sequence_mean", clip_low=0.2, clip_high=0.15, kl_coefficient=kl)
    theirs, ours = assert_equal(algorithm, draw(4), trainer(GMPOTrainer, algorithm))
    for name in ("clip_ratio/low_mean", "clip_ratio/high_mean"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
