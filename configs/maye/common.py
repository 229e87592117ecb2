"""Common to MAYE's recipes: Reinforce++ on the language model of a Qwen-VL.

Argument: MODEL,VARIANT; MODEL as in model_common.py

Paper, released script and released defaults disagree; a comment says so at each key. Without a VARIANT: the paper's
numbers, computed correctly.

    paper    Eq. 1 as it is written: the mean over each response's tokens, then over responses (its "reward
             normalization" is taken for whitening, which Eq. 1 does not show)
    script   the released script's numbers: two micro-batches, the format reward in the score, -0.1 where truncated
    parity   what the released code computes, its mistakes included (parity_common.py), on 7 devices

The paper's per-device numbers are kept: 128 prompts and mini-batches of 4. It trains on 7 GPUs and samples on the
eighth; here all devices do both, so eight of them have 1,024 prompts and mini-batches of 32.
"""

from pivot_jax.config import include
from pivot_jax.errors import UserError

SCORE = ({"name": "math", "column": "solution"}, {"name": "language"})  # the paper: correct +1, other languages cost
VARIANTS = {
    "paper": {"rl.aggregation": "sequence_mean"},
    "script": {
        "rl.rewards": (*SCORE, {"name": "format", "style": "maye"}),  # the paper says that it is left out
        "rl.penalty_truncated": True,  # not in the paper
        "rl.penalty_min_tokens": 2,
        "train.accumulate": 2,  # the paper: 1
        "hardware": ("h100-8", "v5p-16"),  # micro-batches of 16 rows
    },
}


def get_config(arg=""):
    words = arg.split(",")
    variants = sorted(word for word in words if word in (*VARIANTS, "parity"))
    if len(variants) > 1:
        raise UserError(f"MAYE's recipe: {variants[0]} and {variants[1]} exclude each other; name one")
    model = ",".join(word for word in words if word not in variants)
    config = include(__file__, f"model_common.py:{model}") | {
        "data.batch_size": 1024,
        "objective.name": "policy",
        "rl.algorithm": "reinforce++",  # whitened over the whole batch, the mean removed
        "rl.responses": 1,
        "rl.kl": "k3",
        "rl.kl_in": "loss",
        "rl.kl_coefficient": 0.001,  # paper and script; released defaults 0.01, and 0.01 in the reward too
        "rl.gamma": 1.0,  # paper and script; released defaults 0.999
        "rl.clip_low": 0.2,
        "rl.clip_high": 0.2,
        "rl.minibatches": 32,
        "rl.epochs": 1,
        "rl.temperature": 1.0,
        "rl.max_tokens": 2048,
        "rl.rewards": SCORE,
    }
    if "parity" in variants:
        return config | include(__file__, "parity_common.py")
    return config | (VARIANTS[variants[0]] if variants else {})
