"""DPO on 289 pairs of real model answers to MATH-Vision questions, from the trial's SFT run."""

import os

from pivot_jax.config import include

DATA = os.environ.get("PIVOT_SHARED_DATA", "../shared/data")


def get_config():
    return include(__file__, "common.py") | {
        "name": "trial_dpo",
        "stage": "preference",
        "init": {"": "run:runs/trial/sft"},
        "data.sources": ({"format": "preference_pairs", "path": f"{DATA}/mathvision/preference_pairs.jsonl"},),
        # Both answers stand in one row. The longest 3 % are cut.
        "data.max_length": 1280,
        "data.buckets": ((448, 256), (640, 448), (896, 704), (1280, 1088)),
        "objective.name": "dpo",
        "optimizer.rules": ((".*", 1e-3),),
        "train.epochs": 6.0,
    }
