"""MAYE on geometry3k: 2,101 problems, 50 epochs (section 5.1 of the paper; its appendix A says 30, the defaults 100).

Argument: MODEL,VARIANT, see common.py

Data as `pivot-jax prepare maye --source data --out data/maye` writes it.
"""

from pivot_jax.config import include

DATA = "data/maye"


def get_config(arg=""):
    common = include(__file__, f"common.py:{arg}")
    return common | {
        "name": "maye_geometry3k",
        "data.sources": ({"format": "maye", "path": f"{DATA}/geometry3k_rl_v0.jsonl"},),
        "train.epochs": 50.0,
        "eval.every": 2 * common["rl.minibatches"],  # optimizer steps: an epoch is 2 rollouts
        "rl.heldout.sources": ({"format": "maye", "path": f"{DATA}/geometry3k_validation_v0.jsonl"},),
    }
