"""Stage 1b: everything on conversations about images. All arms start from this checkpoint.

Argument: DATA, see common.py
"""

from pivot_jax.config import include


def get_config(arg=""):
    return include(__file__, f"common.py:{arg}") | {
        "name": "stage1b",
        "init": {"": "run:runs/demo/cells/stage1,seed0/stage1a"},
        "data.sources.0.split": "vqa",
        "optimizer.rules": ((".*", 2e-3),),
        "train.steps": 1000,
    }
