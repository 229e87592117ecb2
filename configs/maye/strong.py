"""A recipe of today on geometry3k: eight responses to a prompt, DAPO's losses and filter, with MAYE's data.

Argument: MODEL, see model_common.py

It aims at what EasyR1 reports for Qwen2.5-VL-7B (0.50 to 0.54 of the 601 test problems), and takes EasyR1's numbers
where DAPO has none of its own: 512 prompts a rollout, mini-batches of 128, learning rate 1e-6, 2,048 tokens.
"""

from pivot_jax.config import include

DATA = "data/maye"


def get_config(arg=""):
    return include(__file__, f"model_common.py:{arg}") | {
        "name": "maye_strong",
        "data.sources": ({"format": "maye", "path": f"{DATA}/geometry3k_rl_v0.jsonl"},),
        "data.batch_size": 512,
        "objective.name": "policy",
        "rl.algorithm": "dapo",
        "rl.responses": 8,
        "rl.responses_per_row": 2,  # of 2,048 tokens each, after one prompt
        "train.accumulate": 16,  # micro-batches of 32 rows, of 64 responses
        "data.max_length": 5120,
        "data.buckets": ((5120, 4352),),
        "rl.minibatches": 4,
        "rl.max_tokens": 2048,
        "rl.filter_reward": "math",
        "rl.rewards": (
            {"name": "math", "column": "solution"},
            {"name": "soft_overlong", "max_length": 2048, "buffer": 512},
        ),
        "rl.heldout.sources": ({"format": "maye", "path": f"{DATA}/geometry3k_validation_v0.jsonl"},),
        "eval.every": 16,
        "optimizer.rules": (("(vision|second|projector)/.*", "frozen"), (".*", 1e-6)),
        "train.epochs": 15.0,
    }
