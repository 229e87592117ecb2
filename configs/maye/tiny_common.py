"""Common to the tiny Qwen2.5-VL of the ablation: 0.6M new parameters, windows, merger and M-RoPE.

Argument: DATA, the folder of the study's images and tokenizer

It is runs/maye_ablation/data by default; the study configs/study/maye_ablation.py makes it.
"""


def get_config(arg=""):
    data = arg or "runs/maye_ablation/data"
    return {
        "model.vision.family": "qwen2_5_vl",
        "model.vision.patch_size": 4,
        "model.vision.window": 16,
        "model.vision.width": 64,
        "model.vision.depth": 3,
        "model.vision.heads": 4,
        "model.vision.mlp_dim": 192,
        "model.vision.activation": "silu",
        "model.vision.full_blocks": (1, 2),
        "model.decoder.vocab_size": 512,
        "model.decoder.width": 96,
        "model.decoder.depth": 3,
        "model.decoder.heads": 4,
        "model.decoder.kv_heads": 2,
        "model.decoder.mlp_dim": 288,
        "model.decoder.rope_theta": 1e4,
        "model.decoder.mrope_section": (4, 4, 4),
        "tokenizer.path": f"{data}/tokenizer",
        "tokenizer.system": "",
        "data.image.preset": "qwen2_5_vl",
        "data.image.min_pixels": 64,
        "data.image.max_patches": 100,  # 40 pixels: 25 image tokens
        "data.workers": 1,
        "optimizer.b2": 0.95,
        "train.log_every": 10,
        "train.checkpoint_every": 200,
        "train.keep": 1,
        "eval.batch_size": 200,
    }
