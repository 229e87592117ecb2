"""Stage 0: the encoder from random weights, on 43,771 captions (SigLIP's loss) or classes (supervised).

Argument: FOLDER,supervised

One in 13 is an image of easy-VQA, the others are its copies with the shape at another place. Supervised, the encoder
and a decoder of one layer name the image's class, "blue circle". Later stages take either.
"""

from pathlib import Path

from pivot_jax.config import folder_and_words, include

CONTRASTIVE = {"name": "stage0", "objective.name": "contrastive", "data.packing": 1}
SUPERVISED = {
    "name": "stage0_supervised",
    "model.decoder.name": "",
    "model.decoder.vocab_size": 49152,  # SmolLM2's
    "model.decoder.width": 96,
    "model.decoder.depth": 1,
    "model.decoder.heads": 3,
    "model.decoder.kv_heads": 3,
    "model.decoder.mlp_dim": 192,
    "data.template": "plain",
}


def get_config(arg=""):
    folder, words = folder_and_words(arg, "runs/real/seed0", ("supervised",), "stage0.py")
    file = "labels.json" if words else "stage0.json"
    return (
        include(__file__, f"common.py:{folder}")
        | (SUPERVISED if words else CONTRASTIVE)
        | {
            "data.sources.0.path": str(Path(folder).parent / "data" / file),
            "data.batch_size": 64,
            "optimizer.rules": ((".*", 1e-3),),
            "train.epochs": 1.5,
        }
    )
