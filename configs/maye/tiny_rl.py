"""MAYE's Reinforce++ on geometry, computed correctly, for the tiny Qwen2.5-VL of the ablation.

Argument: DATA, see tiny_common.py

The encoder is frozen, as in MAYE. configs/study/maye_ablation.py turns each of the released code's mistakes on.
"""

from pivot_jax.config import include

GEOMETRY = {"format": "geometry_tasks", "seed": 1}


def get_config(arg=""):
    return include(__file__, f"tiny_common.py:{arg}") | {
        "name": "maye_tiny_rl",
        "init": {"": "run:runs/maye_ablation/cells/correct,seed0/stage1b"},
        "data.sources": (GEOMETRY | {"sampling": "first:2240"},),
        "data.batch_size": 112,  # 7 parts of 16, as MAYE's 7 ranks
        "objective.name": "policy",
        "rl.algorithm": "reinforce++",
        "rl.kl": "k3",
        "rl.kl_in": "loss",
        "rl.kl_clamp": "none",
        "rl.kl_coefficient": 0.001,
        "rl.responses": 1,
        "rl.max_tokens": 48,  # an answer with its working has some 35
        "rl.block": 8,
        "rl.minibatches": 4,
        "rl.rewards": ({"name": "math", "column": "answer"},),
        "rl.reward_workers": 1,
        "rl.heldout.sources": (GEOMETRY | {"split": "validation", "sampling": "first:224"},),
        "eval.every": 80,  # optimizer steps: a pass over the prompts
        "optimizer.rules": (("(vision|projector)/.*", "frozen"), (".*", 3e-4)),
        "optimizer.warmup_ratio": 0.1,
        "train.steps": 400,
    }
