"""Stage 1b: everything on conversations about images. All arms start from this checkpoint.

Argument: FOLDER, of one seed's runs
"""

from pivot_jax.config import include


def get_config(arg=""):
    folder = arg or "runs/demo/seed0"
    return include(__file__, f"common.py:{arg}") | {
        "name": "stage1b",
        "init": {"": f"run:{folder}/stage1a"},
        "data.sources.0.split": "vqa",
        "optimizer.rules": ((".*", 2e-3),),
        "train.steps": 1000,
    }
