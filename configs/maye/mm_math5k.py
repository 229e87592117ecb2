"""MAYE on mm_math5k: 5,000 problems of MM_Math, 30 epochs (section 5.1 of the paper; its appendix A says 50).

Argument: MODEL,VARIANT, see common.py

Data as `pivot-jax prepare maye --source data --out data/maye` writes it. Held-out rewards are on the 100 validation
problems after each epoch; the out-of-distribution test is math_verse_test_v0.jsonl.
"""

from pivot_jax.config import include

DATA = "data/maye"


def get_config(arg=""):
    common = include(__file__, f"common.py:{arg}")
    return common | {
        "name": "maye_mm_math5k",
        "data.sources": ({"format": "maye", "path": f"{DATA}/mm_math_rl_v0.jsonl"},),
        "train.epochs": 30.0,
        "eval.every": 5 * common["rl.minibatches"],  # optimizer steps: an epoch is 5 rollouts
        "rl.heldout.sources": ({"format": "maye", "path": f"{DATA}/mm_math_validation_v0.jsonl"},),
    }
