"""Stage 2, GRPO arm: the same 4,000 questions, answered by the model itself; a right answer is rewarded.

Argument: FOLDER,lora
"""

from pivot_jax.config import include


def get_config(arg=""):
    return include(__file__, f"arm_common.py:{arg}") | {
        "name": "grpo",
        "data.packing": 1,
        "objective.name": "policy",
        "rl.algorithm": "trl-grpo",
        "rl.importance": "none",  # the embedded sampler has the trainer's log-probs
        "rl.responses": 4,
        "rl.max_tokens": 6,  # an answer has one to three tokens
        "rl.block": 2,
        "rl.rewards": ({"name": "exact", "extract": "whole", "column": "chosen"},),
        "rl.reward_workers": 1,
        "optimizer.rules": ((".*", 2e-5),),
    }
