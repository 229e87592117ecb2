"""Stage 1a: the projector on captions; encoder of stage 0 and a random decoder frozen.

Argument: DATA, see common.py

The paper's decoder is pretrained; here it is not, so this stage can do little more than set the projector's scale.
"""

from pivot_jax.config import include


def get_config(arg=""):
    return include(__file__, f"common.py:{arg}") | {
        "name": "stage1a",
        "init": {"vision": "run:runs/demo/cells/stage1,seed0/stage0"},
        "data.sources.0.split": "caption",
        "data.template": "plain",
        "optimizer.rules": (("projector/.*", 1e-3), (".*", "frozen")),
        "train.steps": 30,
    }
