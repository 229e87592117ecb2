"""Stage 3, first half: a new Qwen2.5 and projector for an extracted encoder; only new projector layers are trained.

Argument: REUSE[,PACK]: 0, 1 (default) or 2 layers; the pack

REUSE is how many frozen layers of the pack's projector are before the new ones: 0, 1 ("1+1", the paper's choice
[P B.7]) or 2 ("2+2"). PACK is written by ``pivot-jax extract``; the default is that of stage 2's DPO
arm. The baseline with the original encoder: ``stage3_projector.py:0 --config.init.vision=hf:FOLDER``.
"""

from pivot_jax.config import include


def get_config(arg=""):
    common = include(__file__, f"stage3_common.py:{arg}")
    return common | {
        "name": "stage3_projector",
        "init": common["init"] | {"decoder": "hf:checkpoints/Qwen2.5-1.5B-Instruct"},
        "data.sources": (
            {
                "format": "llava",
                "path": "data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
                "image_root": "data/LLaVA-Pretrain/images",
            },
        ),
        "data.template": "plain",
        "data.buckets": ((640, 64), (1024, 448), (2048, 1472)),
        "optimizer.rules": (
            *common["optimizer.rules"],
            ("projector/.*", 1e-3),  # as in stage 1a
            (".*", "frozen"),
        ),
    }
