"""Stage 1a: align the projector on 558K captions, encoder and decoder frozen. About 2,180 steps."""

from pivot_jax.config import include


def get_config():
    return include(__file__, "common.py") | {
        "name": "stage1a",
        "init": {
            "vision": "hf:checkpoints/siglip2-so400m-patch16-384",
            "decoder": "hf:checkpoints/Qwen2.5-1.5B-Instruct",
        },
        "data.sources": (
            {
                "format": "llava",
                "path": "data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
                "image_root": "data/LLaVA-Pretrain/images",
            },
        ),
        "data.template": "plain",  # image, caption, newline; the question is dropped [C]
        "data.buckets": ((640, 64), (1024, 448), (2048, 1472)),
        "optimizer.rules": (("projector/.*", 1e-3), (".*", "frozen")),
    }
