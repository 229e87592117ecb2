"""The study of mini.py at a size for one GPU: 64-pixel scenes of up to five things, larger models, five seeds.

Not a config of a run. The encoders are ViTs of 6 and 12 blocks, the decoder has 30M parameters. We have not run it yet.
"""

from pivot_jax.config import include

WORLD = {"image_size": 64, "grid": 3, "min_objects": 2, "max_objects": 5, "digit_share": 0.15}
SIZES = {
    "caption": 30_000, "vqa": 200_000, "stage3": 40_000, "preference": 20_000, "preference_test": 2_000,
    "probe_train": 5_000, "probe_val": 1_000, "probe_test": 4_000, "test": 4_000,
}  # fmt: skip
DECODER = {
    "model.decoder.width": 512,
    "model.decoder.depth": 8,
    "model.decoder.heads": 8,
    "model.decoder.kv_heads": 4,
    "model.decoder.mlp_dim": 1536,
    "model.decoder.vocab_size": 1024,
}
ENCODERS = {"small": (256, 6, 4), "large": (512, 12, 8)}  # width, depth, heads


def get_config():
    mini = include(__file__, "mini.py")
    measures = {name: one | {"world": WORLD} if "world" in one else one for name, one in mini["measures"].items()}
    return mini | {
        "title": "Does DPO make a multimodal LLM see better than SFT? Two encoders, six arms, five seeds, one GPU",
        "subtitle": "Rendered scenes, 64-pixel encoders trained from scratch, stages 0 to 3",
        "scope": ("The images are rendered, and the decoder is not pretrained.", *mini["scope"][1:]),
        "data": mini["data"] | {"world": WORLD, "sizes": SIZES, "vocabulary": 1024},
        "seeds": (0, 1, 2, 3, 4),
        "factors": {
            "encoder": {
                name: {
                    ".*": DECODER
                    | {
                        "model.dtype": "bfloat16",
                        "model.vision.image_size": 64,
                        "data.image.size": 64,
                        "model.vision.width": width,
                        "model.vision.depth": depth,
                        "model.vision.heads": heads,
                        "model.vision.mlp_dim": 4 * width,
                        "data.batch_size": 256,
                        "data.workers": 4,
                        "optimizer.b2": 0.95,
                    },
                    "stage0|stage1a|stage1b|stage3_projector|stage3": {"optimizer.rules.0.1": 5e-4},
                }
                for name, (width, depth, heads) in ENCODERS.items()
            }
        },
        "measures": measures,
        "stages": {
            name: stage
            | {"minutes": 0.0, "resources": {"gpu": 1}}
            | ({"rows": SIZES["preference"]} if stage.get("rows") else {})
            for name, stage in mini["stages"].items()
        },
        "machine": {"chip": "h200", "chips": 1, "mfu": 0.1},
        "threads": 8,
        "platform": "",
    }
