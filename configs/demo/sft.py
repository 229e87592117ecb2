"""Stage 2, SFT arm: the chosen answers of the pairs, five epochs from stage 1b.

Argument: FOLDER, of one seed's runs
"""

from pivot_jax.config import include


def get_config(arg=""):
    folder = arg or "runs/demo/seed0"
    return include(__file__, f"common.py:{arg}") | {
        "name": "sft",
        "init": {"": f"run:{folder}/stage1b"},
        "data.sources.0.split": "preference",
        "optimizer.rules": ((".*", 3e-4),),
        "train.epochs": 5.0,
    }
