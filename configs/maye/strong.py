"""A recipe of today on geometry3k: eight responses to a prompt, DAPO's losses and filter, with MAYE's data.

Argument: MODEL, see common.py

It aims at what EasyR1 reports for Qwen2.5-VL-7B (0.50 to 0.54 of the 601 test problems), and takes EasyR1's numbers
where DAPO has none of its own: 512 prompts a rollout, mini-batches of 128, learning rate 1e-6, 2,048 tokens.
"""

from pivot_jax.config import include


def get_config(arg=""):
    return include(__file__, f"geometry3k.py:{arg}") | {
        "name": "maye_strong",
        "data.batch_size": 512,
        "rl.algorithm": "dapo",
        "rl.kl": "",
        "rl.kl_in": "",
        "rl.kl_coefficient": -1.0,  # the preset's: none
        "rl.gamma": -1.0,
        "rl.clip_low": -1.0,
        "rl.clip_high": -1.0,
        "rl.responses": 8,
        "rl.minibatches": 4,
        "rl.filter_reward": "math",
        "rl.rewards": (
            {"name": "math", "column": "solution"},
            {"name": "soft_overlong", "max_length": 2048, "buffer": 512},
        ),
        "optimizer.rules": (("(vision|second|projector)/.*", "frozen"), (".*", 1e-6)),
        "train.epochs": 15.0,
        "eval.every": 16,
    }
