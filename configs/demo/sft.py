"""Stage 2, SFT arm: the chosen answers of the pairs, five epochs from stage 1b.

Argument: DATA, see common.py
"""

from pivot_jax.config import include


def get_config(arg=""):
    return include(__file__, f"common.py:{arg}") | {
        "name": "sft",
        "init": {"": "run:runs/demo/cells/sft,seed0/stage1b"},
        "data.sources.0.split": "preference",
        "optimizer.rules": ((".*", 3e-4),),
        "train.epochs": 5.0,
    }
