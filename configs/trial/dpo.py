"""DPO on 289 pairs of real model answers to MATH-Vision questions, from the trial's SFT run."""

from pivot_jax.config import from_environment, include

DATA = from_environment("PIVOT_SHARED_DATA", "../shared/data")


def get_config():
    return include(__file__, "common.py") | {
        "name": "trial_dpo",
        "init": {"": "run:runs/trial/sft"},
        "data.sources": ({"format": "preference_pairs", "path": f"{DATA}/mathvision/preference_pairs.jsonl"},),
        # Both answers are in one row; rows of more than 512 tokens are truncated (four pairs in ten).
        "data.max_length": 512,
        "data.buckets": ((352, 144), (512, 304)),
        "data.batch_size": 8,
        "objective.name": "dpo",
        "optimizer.rules": ((".*", 1e-3),),
        "train.epochs": 6.0,
        "train.log_every": 12,  # a line is the mean over 96 pairs
    }
