"""Stage 1a's data and template: 500 image-caption rows of LLaVA-Pretrain.

Argument: projector, to train it alone, as at full size

Nothing here is pretrained, so by default everything is trained; with the projector alone the loss falls little.
"""

from pivot_jax.config import from_environment, include
from pivot_jax.errors import UserError

DATA = from_environment("PIVOT_SHARED_DATA", "../shared/data")
RULES = {"": ((".*", 3e-3),), "projector": (("projector/.*", 3e-3), (".*", "frozen"))}


def get_config(arg=""):
    if arg not in RULES:
        raise UserError(f"stage1a.py: unknown argument '{arg}' (allowed: none, projector)")
    return include(__file__, "common.py") | {
        "name": "trial_stage1a",
        "data.sources": ({"format": "llava", "path": f"{DATA}/llava_pretrain_mini/data.json"},),
        "data.template": "plain",
        "data.max_length": 192,
        # 144 image tokens, then caption and newline. Few targets per bucket: the vocabulary is the most expensive part.
        "data.buckets": ((160, 16), (168, 24), (192, 48)),
        "optimizer.rules": RULES[arg],
        "train.epochs": 3.0,
    }
