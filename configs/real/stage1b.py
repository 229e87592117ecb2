"""Stage 1b: everything on questions. The arms start from this early one, of 8,000 rows; full has all 36,704.

Argument: FOLDER,full,lora

The rows that follow the first 8,000 are those of the arms. One run each, of seed 0: after 8,000 rows 84.0 % of the test
questions are right, after 16,000 rows 91.7 %, which leaves the arms too little to learn. The best answers without the
image are right for 68.6 %.
"""

from pivot_jax.config import folder_and_words, include


def get_config(arg=""):
    folder, words = folder_and_words(arg, "runs/real/seed0", ("full", "lora"), "stage1b.py")
    lora = ",lora" if "lora" in words else ""
    return include(__file__, f"common.py:{folder}{lora}") | {
        "name": "stage1b_full" if "full" in words else "stage1b",
        "init": {"": f"run:{folder}/stage1a"},
        "data.sources.0.sampling": "all" if "full" in words else "first:8000",
        "optimizer.rules": (("vision/.*", 2e-4), ("projector/.*", 5e-4), (".*", 1e-4)),
        "train.epochs": 1.0,
    }
