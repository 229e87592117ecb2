"""The model of MAYE's recipes, and how all of them train: encoder and merger frozen, AdamW as in the paper.

Argument: MODEL

MODEL is qwen2.5-vl-7b (default), qwen2-vl-7b, qwen2.5-vl-3b or qwen2-vl-2b.
"""

from pivot_jax.config import folder_and_words
from pivot_jax.errors import UserError

MODELS = {
    "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen2-vl-7b": "Qwen/Qwen2-VL-7B-Instruct",
    "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2-vl-2b": "Qwen/Qwen2-VL-2B-Instruct",
}


def get_config(arg=""):
    _, words = folder_and_words(arg, "", tuple(MODELS), "MAYE's recipe")
    models = sorted(words) or ["qwen2.5-vl-7b"]
    if len(models) > 1:
        raise UserError(f"MAYE's recipe: {models[0]} and {models[1]} exclude each other; name one")
    name = MODELS[models[0]]
    folder = f"checkpoints/{name.partition('/')[2]}"
    return {
        "model.dtype": "bfloat16",  # of computation; parameters and optimizer are float32, MAYE's are bfloat16
        "model.vision.name": name,
        "model.vision.remat": "full",
        "model.decoder.name": name,
        "model.decoder.remat": "full",
        "init": {"": f"hf:{folder}"},
        "tokenizer.path": folder,
        "tokenizer.image_around": ("<|vision_start|>", "<|vision_end|>"),
        "tokenizer.system": "You are a helpful assistant.",  # of the model's own template
        "data.image.preset": "qwen2_vl" if models[0].startswith("qwen2-") else "qwen2_5_vl",
        "data.image.max_patches": 2116,  # 46 x 46 patches of 14 pixels; larger figures are made smaller
        "data.workers": 8,
        # A figure of 529 tokens, a question of some 250, and a response of 2,048.
        "data.max_length": 3072,
        "data.buckets": ((1536, 1024), (3072, 2304)),
        "optimizer.rules": (("(vision|second|projector)/.*", "frozen"), (".*", 5e-6)),  # released defaults: 3e-6
        "optimizer.warmup_ratio": 0.1,  # and half a cosine to 0; released defaults: constant
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.95,
        "optimizer.eps": 1e-5,
        "optimizer.weight_decay": 0.01,
        "optimizer.clip": 1.0,  # released defaults: none, which crashes there
        "train.log_every": 1,
        "train.checkpoint_every": 32,
        "hardware": ("h100-8", "v5p-16", "v6e-32"),  # of 2B and 3B, and 7B with LoRA, h200-1 too
        "parallel.data": 1,
        "parallel.fsdp": -1,
    }
