"""Stage 2, DPO arm: the same 4,000 questions with a right and a wrong answer of the same kind.

Stage 1b is the reference.

Argument: FOLDER,lora
"""

from pivot_jax.config import include


def get_config(arg=""):
    return include(__file__, f"arm_common.py:{arg}") | {
        "name": "dpo",
        "objective.name": "dpo",
        "objective.beta": 0.1,
        "optimizer.rules": ((".*", 2e-5),),
    }
