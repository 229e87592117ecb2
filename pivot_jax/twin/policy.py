"""Online RL as arguments of TRL's GRPOTrainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pivot_jax.objectives.presets import algorithm_of

AGGREGATIONS = {"token_mean": "dapo", "sequence_mean": "grpo", "constant": "dr_grpo"}  # loss_type
ADVANTAGES = {"grpo": "group", "dr_grpo": "none"}  # scale_rewards
LEVELS = {"token": "token", "sequence": "sequence"}  # importance_sampling_level
STD_EPS = 1e-4  # TRL's


def without_policy_twin(section: Any) -> Iterator[str]:
    """What GRPOTrainer does not have of ``config.rl``."""
    algorithm = algorithm_of(section)
    tables = {"advantage": ADVANTAGES, "ratio": LEVELS, "clip": ("ppo",), "aggregation": AGGREGATIONS}
    for name, known in tables.items():
        value = getattr(algorithm, name)
        if value not in known:
            yield f"rl.{name}={value}: GRPOTrainer has {', '.join(known)} of ours"
    if algorithm.advantage == "grpo" and algorithm.std_eps != STD_EPS:
        yield f"rl.std_eps={algorithm.std_eps:g}: GRPOTrainer adds {STD_EPS:g}"
    if algorithm.kl_coefficient and (algorithm.kl not in ("k3", "k3_corrected") or algorithm.kl_in != "loss"):
        yield f"rl.kl={algorithm.kl} in the {algorithm.kl_in}: GRPOTrainer has k3 in the loss"
    for name in ("importance", "filter", "token_weights"):
        if (value := getattr(algorithm, name)) != "none":
            yield f"rl.{name}={value}: none has a twin"
    for name in ("perception_coefficient", "noise_share", "entropy_coefficient", "off_policy_threshold"):
        if getattr(algorithm, name):
            yield f"rl.{name}: 0 has a twin"
    if section.penalty_truncated or section.penalty_min_tokens:
        yield "rl.penalty_*: TRL replaces no reward"
    if section.minibatches * section.epochs > 1:
        yield "rl.minibatches, rl.epochs: TRL divides a rollout in another order; one step for each has a twin"


def policy(config: Any) -> dict[str, Any]:
    """Arguments of ``config.rl``."""
    section, algorithm = config.rl, algorithm_of(config.rl)
    found = {
        "num_generations": section.responses,
        "reward_weights": [float(entry.get("weight", 1.0)) for entry in section.rewards],
        "max_completion_length": section.max_tokens,
        "temperature": section.temperature,
        "top_p": section.top_p,
        "top_k": section.top_k,
        "loss_type": AGGREGATIONS[algorithm.aggregation],
        "scale_rewards": ADVANTAGES[algorithm.advantage],
        "importance_sampling_level": LEVELS[algorithm.ratio],
        "epsilon": algorithm.clip_low,
        "epsilon_high": algorithm.clip_high,
        "beta": algorithm.kl_coefficient,
        "use_bias_correction_kl": algorithm.kl == "k3_corrected",
        "mask_truncated_completions": False,
        "shuffle_dataset": False,
    }
    # A step of TRL counts responses, one of ours prompts.
    rows = config.data.batch_size * section.responses
    return found | {"per_device_train_batch_size": rows // config.train.accumulate}
