"""Stage 2, DPO arm: the same 20K pairs of MMPR-v1.2 with their rejected answers, three epochs (234 steps)."""

from pivot_jax.config import include


def get_config():
    return include(__file__, "common.py") | {
        "name": "stage2_dpo",
        "init": {"": "run:runs/pivot/stage1b"},  # the policy's start and, frozen, the reference
        "data.sources": ({"format": "mmpr", "path": "data/MMPR-v1.2/meta.json", "sampling": "random:20000"},),
        # One row holds image, question and both answers, so it may be longer than [C]'s 2,048 tokens for one answer.
        "data.max_length": 3520,
        "data.buckets": ((1024, 448), (1536, 960), (2048, 1472), (3520, 2944)),
        # Loss mask: tokens of both answers cancel in the difference, so response_only (the default) is [C]'s loss.
        "objective.name": "dpo",  # without an NLL term [C]
        "objective.beta": 0.1,  # [C]; the paper does not print it
        "objective.reference": "stored",  # [C] runs the reference in each step: same numbers, more work
        "optimizer.rules": ((".*", 1e-6),),  # [P][C], one rate for all parts
        "train.epochs": 3.0,  # [C]
        "train.accumulate": 2,  # 256 pairs of the longest bucket at once need 18.8 of 15.75 GiB on 16 chips of v5e
    }
