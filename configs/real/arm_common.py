"""Common to the arms: the 4,000 pairs, once, from the early stage 1b.

Argument: FOLDER,lora
"""

from pathlib import Path

from pivot_jax.config import folder_and_words, include


def get_config(arg=""):
    folder, _ = folder_and_words(arg, "runs/real/seed0", ("lora",), "an arm")
    return include(__file__, f"common.py:{arg}") | {
        "init": {"": f"run:{folder}/stage1b"},
        "data.sources": ({"format": "trl", "path": str(Path(folder).parent / "data/pairs.jsonl")},),
        "train.epochs": 1.0,
    }
