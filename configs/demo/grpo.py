"""Stage 2, GRPO arm: the prompts of the same pairs, answered by the model itself; a right answer is rewarded.

Argument: DATA, see common.py
"""

from pivot_jax.config import include


def get_config(arg=""):
    return include(__file__, f"common.py:{arg}") | {
        "name": "grpo",
        "init": {"": "run:runs/demo/cells/grpo,seed0/stage1b"},
        "data.sources.0.split": "preference",
        "data.batch_size": 16,
        "objective.name": "policy",
        "rl.algorithm": "trl-grpo",
        "rl.importance": "none",  # the embedded sampler has the trainer's log-probs
        "rl.responses": 8,
        "rl.max_tokens": 40,
        "rl.rewards": ({"name": "text", "extract": "whole", "column": "chosen"},),
        "rl.reward_workers": 1,
        "optimizer.rules": ((".*", 3e-4),),
        "train.steps": 200,
    }
