"""Stage 2, SFT arm: the right answers of 4,000 questions, from the early stage 1b.

Argument: FOLDER,lora
"""

from pivot_jax.config import include


def get_config(arg=""):
    return include(__file__, f"arm_common.py:{arg}") | {
        "name": "sft",
        "optimizer.rules": ((".*", 5e-5),),
    }
