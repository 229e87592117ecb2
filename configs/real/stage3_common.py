"""Common to both halves of stage 3: an arm's encoder, frozen, before a new SmolLM2.

Argument: FOLDER,ARM,lora

ARM is stage1 (no arm), sft, dpo or grpo; FOLDER/pack_ARM is what `pivot-jax extract` wrote of it.
"""

from pivot_jax.config import folder_and_words, include
from pivot_jax.errors import UserError

ARMS = ("stage1", "sft", "dpo", "grpo")


def get_config(arg=""):
    folder, words = folder_and_words(arg, "runs/real/seed0", (*ARMS, "lora"), "stage 3")
    arms = sorted(words - {"lora"}) or ["dpo"]
    if len(arms) > 1:
        raise UserError(f"stage 3: two arms, {arms[0]} and {arms[1]}; name one")
    lora = ",lora" if "lora" in words else ""
    return include(__file__, f"common.py:{folder}{lora}") | {
        "init": {"vision": f"pack:{folder}/pack_{arms[0]}:vision"},
        "optimizer.rules": (("vision/.*", "frozen"),),
    }
