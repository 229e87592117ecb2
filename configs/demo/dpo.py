"""Stage 2, DPO arm: the same pairs with their rejected answers, five epochs from stage 1b, which is the reference.

Argument: DATA, see common.py
"""

from pivot_jax.config import include


def get_config(arg=""):
    return include(__file__, f"common.py:{arg}") | {
        "name": "dpo",
        "init": {"": "run:runs/demo/cells/dpo,seed0/stage1b"},
        "data.sources.0.split": "preference",
        "objective.name": "dpo",
        "objective.beta": 0.1,
        "optimizer.rules": ((".*", 3e-4),),
        "train.epochs": 5.0,
    }
