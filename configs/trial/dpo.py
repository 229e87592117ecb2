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
        # Both answers stand in one row; what is longer than 640 tokens is cut (a fifth of the pairs).
        "data.max_length": 640,
        "data.buckets": ((352, 144), (448, 256), (640, 448)),
        "data.batch_size": 8,
        "objective.name": "dpo",
        "optimizer.rules": ((".*", 1e-3),),
        "train.epochs": 4.0,
    }
