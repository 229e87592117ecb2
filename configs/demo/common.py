"""Common to all stages of the demo: a 32-pixel encoder and a decoder of a few layers, both new.

Argument: DATA, the folder of the images and the tokenizer

It is runs/demo/data by default; ``pivot-jax demo`` makes it.
"""


def get_config(arg=""):
    data = arg or "runs/demo/data"
    return {
        "model.vision.image_size": 32,
        "model.vision.patch_size": 8,  # 16 image tokens
        "model.vision.width": 64,
        "model.vision.depth": 4,  # an MLLM computes 3
        "model.vision.heads": 4,
        "model.vision.mlp_dim": 256,
        "model.decoder.vocab_size": 512,
        "model.decoder.width": 64,
        "model.decoder.depth": 3,
        "model.decoder.heads": 4,
        "model.decoder.kv_heads": 2,
        "model.decoder.mlp_dim": 192,
        "model.decoder.rope_theta": 1e4,
        "model.text.width": 64,
        "model.text.depth": 2,
        "model.text.heads": 4,
        "model.text.mlp_dim": 256,
        "model.text.max_length": 24,
        "tokenizer.path": f"{data}/tokenizer",
        "tokenizer.system": "",  # a fixed text that would be a fifth of every row
        "data.sources": ({"format": "tfds", "path": f"{data}/scenes/study/1.0.0", "split": "vqa"},),
        "data.image.size": 32,
        "data.batch_size": 32,
        "data.workers": 1,
        "optimizer.b2": 0.99,
        "train.log_every": 10,
        "train.checkpoint_every": 200,
        "train.keep": 1,
        "eval.batch_size": 200,
    }
