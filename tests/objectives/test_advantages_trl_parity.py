"""Advantages compared with TRL's own trainers, live."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
import trl
from datasets import Dataset

from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.objectives.advantages import advantages
from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.filters import reward_metrics
from tests.objectives.test_advantages import GROUPS, REWARDS, WEIGHTS, N, scores


@pytest.fixture(scope="module")
def trainers(tmp_path_factory):
    """TRL's trainers of a tiny language model, whose rewards are :data:`REWARDS`."""
    out = tmp_path_factory.mktemp("trl")
    tokenizer = load_tokenizer(train_bpe(["what is it", "one two three"], 270, tmp_path_factory.mktemp("tokenizer")))
    shape = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
    )
    cfg = transformers.Qwen2Config(vocab_size=len(tokenizer), **shape)

    def reward_a(completions, **columns):
        return REWARDS[:, 0].tolist()

    def reward_b(completions, **columns):
        return REWARDS[:, 1].tolist()

    def make(kind, arguments, **more):
        args = arguments(
            output_dir=str(out), per_device_train_batch_size=GROUPS * N, num_generations=N, max_completion_length=2,
            reward_weights=WEIGHTS.tolist(), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
            **more,
        )  # fmt: skip
        return kind(
            transformers.Qwen2ForCausalLM(cfg), [reward_a, reward_b], args=args, processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": ["what is it"] * GROUPS}),
        )  # fmt: skip

    return {
        "grpo": make(trl.GRPOTrainer, trl.GRPOConfig),
        "rloo": make(trl.RLOOTrainer, trl.RLOOConfig, beta=0.0),
    }


def trl_advantages(trainer):
    inputs = [{"prompt": "what is it"}] * (GROUPS * N)
    trainer.model.train()
    out = trainer._generate_and_score_completions(inputs)
    return out["advantages"].numpy(), {name: values[-1] for name, values in trainer._metrics["train"].items()}


@pytest.mark.parametrize(
    ("name", "scale", "aggregation"),
    [
        ("grpo", "group", "sum_then_normalize"),
        ("batch_std", "batch", "sum_then_normalize"),
        ("dr_grpo", "none", "sum_then_normalize"),
        ("gdpo", "group", "normalize_then_sum"),
    ],
)
def test_advantages_equal_those_of_grpo_trainer(trainers, name, scale, aggregation):
    """Groups without variance, with one scored response, and with responses that no function scored."""
    trainer = trainers["grpo"]
    trainer.scale_rewards, trainer.multi_objective_aggregation = scale, aggregation
    want, metrics = trl_advantages(trainer)
    got = advantages(Algorithm(advantage=name), scores())
    np.testing.assert_allclose(got[:, 0], want, atol=1e-5)
    assert np.abs(want).max() > 0.5
    assert (got[[8, 9, 10, 13]] == 0).all()
    if scale == "group" and name == "grpo":
        ours = reward_metrics(scores())
        for key in ("reward", "reward_std", "frac_reward_zero_std"):
            np.testing.assert_allclose(ours[key], metrics[key], atol=1e-6, err_msg=key)


def test_advantages_equal_those_of_rloo_trainer(trainers):
    want, _ = trl_advantages(trainers["rloo"])
    np.testing.assert_allclose(advantages(Algorithm(advantage="rloo"), scores())[:, 0], want, atol=1e-5)
