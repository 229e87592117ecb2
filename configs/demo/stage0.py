"""Stage 0: the encoder from random weights, by SigLIP's sigmoid loss on images and their captions.

Argument: DATA, see common.py
"""

from pivot_jax.config import include


def get_config(arg=""):
    return include(__file__, f"common.py:{arg}") | {
        "name": "stage0",
        "objective.name": "contrastive",
        "data.sources.0.split": "caption",
        "data.batch_size": 64,
        "optimizer.rules": ((".*", 1e-3),),
        "train.steps": 250,
    }
