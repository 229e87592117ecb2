"""GRPO on real mathematics with images of their own sizes, as Qwen2.5-VL reads them, and a tiny random model.

Argument: DATA, geometry3k (default), k12_math or mathvision

Random weights solve nothing, but they can learn to write Latin letters, and the run shows that real formats, tokenizer,
chat template and rewards work. Data as in common.py.
"""

from pivot_jax.config import from_environment
from pivot_jax.errors import UserError

DATA = from_environment("PIVOT_SHARED_DATA", "../shared/data")
SOURCES = {
    "geometry3k": {"path": f"{DATA}/geometry3k_test_overlay/data.jsonl", "choices_key": "choices"},
    "k12_math": {"path": f"{DATA}/k12_math_mini/data.json", "image_key": "image_path"},
    "mathvision": {"path": f"{DATA}/mathvision/data.jsonl", "choices_key": "options"},
}


def get_config(arg=""):
    if arg and arg not in SOURCES:
        raise UserError(f"grpo.py: unknown argument '{arg}' (allowed: {', '.join(SOURCES)})")
    return {
        "name": "trial_grpo",
        "model.vision.family": "qwen2_5_vl",
        "model.vision.patch_size": 14,
        "model.vision.width": 64,
        "model.vision.depth": 2,
        "model.vision.heads": 4,
        "model.vision.mlp_dim": 128,
        "model.vision.activation": "silu",
        "model.vision.full_blocks": (1,),
        "model.decoder.vocab_size": 151936,
        "model.decoder.width": 64,
        "model.decoder.depth": 2,
        "model.decoder.heads": 4,
        "model.decoder.kv_heads": 2,
        "model.decoder.mlp_dim": 192,
        "model.decoder.mrope_section": (2, 3, 3),
        "tokenizer.path": f"{DATA}/qwen2_5_vl_processor",
        "tokenizer.image_around": ("<|vision_start|>", "<|vision_end|>"),
        "data.sources": ({"format": "qa", **SOURCES[arg or "geometry3k"]},),
        "data.image.preset": "qwen2_5_vl",
        "data.image.max_patches": 784,  # 196 image tokens; a larger image is made smaller
        "data.batch_size": 4,
        "objective.name": "policy",
        "rl.algorithm": "trl-grpo",
        "rl.responses": 4,
        "rl.max_tokens": 24,
        "rl.block": 8,
        "rl.rewards": ({"name": "math"}, {"name": "format", "weight": 0.1}, {"name": "language"}),
        "optimizer.rules": ((".*", 1e-3),),
        "train.steps": 20,
        "train.log_every": 1,
        "train.checkpoint_every": 10,
    }
