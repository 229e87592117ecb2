"""Common to MAYE's recipes: Reinforce++ on the language model of a Qwen-VL, encoder and merger frozen.

Argument: MODEL,VARIANT

MODEL is qwen2.5-vl-7b (default), qwen2-vl-7b, qwen2.5-vl-3b or qwen2-vl-2b. Paper, released script and released
defaults disagree; a comment says so at each key. Without a VARIANT: the paper's numbers, computed correctly.

    paper    Eq. 1 as it is written: the mean over each response's tokens, then over responses (its "reward
             normalization" is taken for whitening, which Eq. 1 does not show)
    script   the released script's numbers: two micro-batches, the format reward in the score, -0.1 where truncated
    parity   what the released code computes, its mistakes included (parity_common.py), on 7 devices

The paper's per-device numbers are kept: 128 prompts and mini-batches of 4. It trains on 7 GPUs and samples on the
eighth; here all devices do both, so eight of them have 1,024 prompts and mini-batches of 32.
"""

from pivot_jax.config import folder_and_words, include
from pivot_jax.errors import UserError

MODELS = {
    "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen2-vl-7b": "Qwen/Qwen2-VL-7B-Instruct",
    "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2-vl-2b": "Qwen/Qwen2-VL-2B-Instruct",
}
SCORE = ({"name": "math", "column": "solution"}, {"name": "language"})  # the paper: correct +1, other languages cost
VARIANTS = {
    "paper": {"rl.aggregation": "sequence_mean"},
    "script": {
        "rl.rewards": (*SCORE, {"name": "format", "style": "maye"}),  # the paper says that it is left out
        "rl.penalty_truncated": True,  # not in the paper
        "rl.penalty_min_tokens": 2,
        "train.accumulate": 2,  # the paper: 1
    },
}


def get_config(arg=""):
    _, words = folder_and_words(arg, "", (*MODELS, *VARIANTS, "parity"), "MAYE's recipe")
    models = sorted(words & set(MODELS)) or ["qwen2.5-vl-7b"]
    variants = sorted(words - set(MODELS))
    if len(models) > 1 or len(variants) > 1:
        both = models if len(models) > 1 else variants
        raise UserError(f"MAYE's recipe: {both[0]} and {both[1]} exclude each other; name one")
    name = MODELS[models[0]]
    folder = f"checkpoints/{name.partition('/')[2]}"
    config = {
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
        "data.batch_size": 1024,
        "data.workers": 8,
        "objective.name": "policy",
        "rl.algorithm": "reinforce++",  # whitened over the whole batch, the mean removed
        "rl.responses": 1,
        "rl.kl": "k3",
        "rl.kl_in": "loss",
        "rl.kl_coefficient": 0.001,  # paper and script; released defaults 0.01, and 0.01 in the reward too
        "rl.gamma": 1.0,  # paper and script; released defaults 0.999
        "rl.clip_low": 0.2,
        "rl.clip_high": 0.2,
        "rl.minibatches": 32,
        "rl.epochs": 1,
        "rl.temperature": 1.0,
        "rl.max_tokens": 2048,
        "rl.rewards": SCORE,
        "optimizer.rules": (("(vision|second|projector)/.*", "frozen"), (".*", 5e-6)),  # released defaults: 3e-6
        "optimizer.warmup_ratio": 0.1,  # and half a cosine to 0; released defaults: constant
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.95,
        "optimizer.eps": 1e-5,
        "optimizer.weight_decay": 0.01,
        "optimizer.clip": 1.0,  # released defaults: none, which crashes there
        "train.log_every": 1,
        "train.checkpoint_every": 32,
        "hardware": ("h100-8",),
        "parallel.data": 1,
        "parallel.fsdp": -1,
    }
    if "parity" in variants:
        return config | include(__file__, "parity_common.py")
    return config | (VARIANTS[variants[0]] if variants else {})
