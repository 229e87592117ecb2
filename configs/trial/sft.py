"""SFT on 1,000 questions of ScienceQA with images, from the trial's stage 1a."""

from pivot_jax.config import from_environment, include

DATA = from_environment("PIVOT_SHARED_DATA", "../shared/data")


def get_config():
    return include(__file__, "common.py") | {
        "name": "trial_sft",
        "init": {"": "run:runs/trial/stage1a"},
        "data.sources": ({"format": "scienceqa", "path": f"{DATA}/scienceqa_test_img/data.jsonl"},),
        "data.max_length": 768,
        "data.buckets": ((320, 16), (448, 16), (768, 16)),
        "optimizer.rules": ((".*", 3e-3),),
        "train.epochs": 2.0,
    }
