"""Stage 3, second half: projector and decoder on conversations, encoder and reused layers frozen.

Argument: DATA,REUSE, see stage3_common.py

Starts from the first half.
"""

from pivot_jax.config import include


def get_config(arg=""):
    common = include(__file__, f"stage3_common.py:{arg}")
    return common | {
        "name": "stage3",
        "init": {"": "run:runs/demo/cells/dpo,seed0/stage3_projector"},
        "data.sources.0.split": "stage3",
        "optimizer.rules": (*common["optimizer.rules"], (".*", 2e-3)),
        "train.steps": 450,
    }
