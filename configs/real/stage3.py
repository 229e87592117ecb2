"""Stage 3, second half: projector and SmolLM2 on 4,000 questions that no arm has seen; the encoder stays frozen.

Argument: FOLDER,ARM,lora, see stage3_common.py

Starts from the first half, FOLDER/stage3_ARM_projector.
"""

from pivot_jax.config import folder_and_words, include

ARMS = ("stage1", "sft", "dpo", "grpo")


def get_config(arg=""):
    folder, words = folder_and_words(arg, "runs/real/seed0", (*ARMS, "lora"), "stage3.py")
    common = include(__file__, f"stage3_common.py:{arg}")
    arm = min(words - {"lora"}, default="dpo")
    return common | {
        "name": "stage3",
        "init": {"": f"run:{folder}/stage3_{arm}_projector"},
        "data.sources.0.sampling": "end:4000",
        "optimizer.rules": (*common["optimizer.rules"], ("projector/.*", 5e-4), (".*", 1e-4)),
    }
