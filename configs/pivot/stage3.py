"""Stage 3, second half: train projector and decoder on Cambrian-737K, encoder and reused projector layers frozen.

Argument: REUSE, see stage3_projector.py

It starts from that one's run: by default runs/pivot/stage3_projector.
"""

from pivot_jax.config import include
from pivot_jax.errors import UserError


def get_config(arg=""):
    if "," in arg:
        raise UserError("stage3.py: takes the reuse only; set the first half's run with --config.init.=run:WORKDIR")
    common = include(__file__, f"stage3_common.py:{arg}")
    return common | {
        "name": "stage3",
        # The whole model of the first half; encoder and reused layers there are the pack's, and stay.
        "init": {"": "run:runs/pivot/stage3_projector"},
        "data.sources": (
            {
                "format": "llava",
                "path": "data/Cambrian737k/Cambrian737k.jsonl",
                "image_root": "data/Cambrian737k/images",
            },
        ),
        "data.loss_mask": "pivot",
        "data.buckets": ((768, 192), (1024, 448), (1536, 960), (2048, 2048)),
        "optimizer.rules": (*common["optimizer.rules"], (".*", 1e-5)),  # [P 6.1]
    }
