"""Stage 3, first half: a new decoder and projector after an extracted encoder; new projector layers on captions.

Argument: DATA,REUSE, see stage3_common.py
"""

from pivot_jax.config import include


def get_config(arg=""):
    common = include(__file__, f"stage3_common.py:{arg}")
    return common | {
        "name": "stage3_projector",
        "data.sources.0.split": "caption",
        "data.template": "plain",
        "optimizer.rules": (*common["optimizer.rules"], ("projector/.*", 1e-3), (".*", "frozen")),
        "train.steps": 20,
    }
