"""Table 1, SFT: the gold boxes as answers, as many steps as GRPO's.

VLM-R1's defaults for SFT: learning rate 2e-5, warm-up over a tenth, cosine, 64 rows a step (8 devices x 4 x 2).
"""

from pivot_jax.config import include


def get_config():
    common = include(__file__, "vlm_r1_common.py")
    return common | {
        "name": "vlm_r1_sft",
        "data.sources": tuple(source | {"answered": True} for source in common["data.sources"]),
        "data.batch_size": 64,
        "data.max_length": 1024,
        "data.buckets": ((1024, 128),),
        "optimizer.rules": ((".*", 2e-5),),
        "optimizer.warmup_ratio": 0.1,
        "train.accumulate": 2,
    }
