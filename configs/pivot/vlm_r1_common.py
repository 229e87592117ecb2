"""Common to the arms of Table 1: Qwen2.5-VL-3B on VLM-R1's referring expressions (RefCOCO, +, g), 1,500 steps each.

The paper says that both arms have 1,500 steps of VLM-R1's code, "all else equal", and no other setting. Numbers are
VLM-R1's defaults for this task. Data: the JSON Lines of VLM-R1 in data/vlm_r1, images of COCO train2014 in data/coco.
"""


def get_config():
    return {
        "model.dtype": "bfloat16",
        "model.vision.name": "Qwen/Qwen2.5-VL-3B-Instruct",
        "model.vision.remat": "full",
        "model.decoder.name": "Qwen/Qwen2.5-VL-3B-Instruct",
        "model.decoder.remat": "full",
        "init": {"": "hf:checkpoints/Qwen2.5-VL-3B-Instruct"},
        "tokenizer.path": "checkpoints/Qwen2.5-VL-3B-Instruct",
        "tokenizer.image_around": ("<|vision_start|>", "<|vision_end|>"),
        "data.sources": tuple(
            {"format": "vlm_r1", "path": f"data/vlm_r1/{name}_train.jsonl", "image_root": "data/coco"}
            for name in ("refcoco", "refcocop", "refcocog")
        ),
        "data.image.preset": "qwen2_5_vl",
        "data.image.max_patches": 2116,  # 46 x 46 patches of 14 pixels: a COCO image of 640 x 480 in its own size
        "data.workers": 8,
        "train.steps": 1500,
        "train.log_every": 1,
        "train.checkpoint_every": 250,
        "hardware": ("h200-8",),
        "parallel.data": 1,
        "parallel.fsdp": -1,
    }
