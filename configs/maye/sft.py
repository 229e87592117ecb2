"""MAYE's SFT arm on mm_math5k: the golden solutions, as many epochs as RL, batches of 16.

Argument: MODEL, see common.py

The paper has one run of it, and none on geometry3k, which has no solutions.
"""

from pivot_jax.config import include
from pivot_jax.data.sources.maye import CHAT_SUFFIX


def get_config(arg=""):
    common = {key: value for key, value in include(__file__, f"common.py:{arg}").items() if not key.startswith("rl.")}
    return common | {
        "name": "maye_sft",
        "data.sources": (
            {
                "format": "qa",
                "path": "data/maye/mm_math_rl_v0.jsonl",
                "image_key": "image",
                "answer_key": "solution",
                "suffix": CHAT_SUFFIX,
            },
        ),
        "data.batch_size": 16,
        "objective.name": "sft",
        "optimizer.rules": (("(vision|second|projector)/.*", "frozen"), (".*", 1e-5)),
        "train.epochs": 30.0,
    }
