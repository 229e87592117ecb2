"""Real files at small widths: the 384-pixel preprocessing and the Qwen2.5 vocabulary of the full size, a tiny model.

Every stage trains in minutes on two CPU cores and shows that the real formats, lengths and tokenizer work. The data is
looked for in $PIVOT_SHARED_DATA, or in ../shared/data.
"""

import os

DATA = os.environ.get("PIVOT_SHARED_DATA", "../shared/data")


def get_config():
    return {
        # Patches of 32 pixels: 144 image tokens instead of 576.
        "model.vision.image_size": 384,
        "model.vision.patch_size": 32,
        "model.vision.width": 128,
        "model.vision.depth": 5,
        "model.vision.heads": 4,
        "model.vision.mlp_dim": 512,
        # The vocabulary is the most expensive part here: 151,936 rows of the embedding, tied with the output head.
        "model.decoder.vocab_size": 151936,
        "model.decoder.width": 64,
        "model.decoder.depth": 4,
        "model.decoder.heads": 4,
        "model.decoder.kv_heads": 2,
        "model.decoder.mlp_dim": 256,
        "tokenizer.path": f"{DATA}/qwen2_5_vl_processor",
        "data.image.preset": "siglip",
        "data.image.size": 384,
        "data.batch_size": 16,
        "train.log_every": 1,
        "train.checkpoint_every": 50,
    }
