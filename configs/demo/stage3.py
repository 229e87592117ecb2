"""Stage 3, second half: projector and decoder on conversations, encoder and reused layers frozen.

Argument: FOLDER,ARM,REUSE, see stage3_common.py

Starts from the first half, FOLDER/stage3_ARM_projector.
"""

from pivot_jax.config import include


def get_config(arg=""):
    common = include(__file__, f"stage3_common.py:{arg}")
    folder, arm = (*arg.split(","), "", "")[:2]
    return common | {
        "name": "stage3",
        "init": {"": f"run:{folder or 'runs/demo/seed0'}/stage3_{arm or 'dpo'}_projector"},
        "data.sources.0.split": "stage3",
        "optimizer.rules": (*common["optimizer.rules"], (".*", 2e-3)),
        "train.steps": 450,
    }
