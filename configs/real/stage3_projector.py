"""Stage 3, first half: a new projector on 1,600 captions, after an arm's encoder and before SmolLM2, both frozen.

Argument: FOLDER,ARM, see stage3_common.py
"""

from pathlib import Path

from pivot_jax.config import folder_and_words, include

ARMS = ("stage1", "sft", "dpo", "grpo")


def get_config(arg=""):
    folder, _ = folder_and_words(arg, "runs/real/seed0", ARMS, "stage3_projector.py")
    common = include(__file__, f"stage3_common.py:{arg}")
    return common | {
        "name": "stage3_projector",
        "init": common["init"] | {"decoder": f"hf:{common['tokenizer.path']}:decoder"},
        "data.sources.0.path": str(Path(folder).parent / "data/captions.json"),
        "data.sources.0.sampling": "first:1600",
        "data.template": "plain",
        "optimizer.rules": (*common["optimizer.rules"], ("projector/.*", 2e-3), (".*", "frozen")),
    }
