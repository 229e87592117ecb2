"""Stage 1b of the ablation's tiny Qwen2.5-VL: questions about scenes, and geometry with and without the working.

Argument: DATA, see tiny_common.py
"""

from pivot_jax.config import include


def get_config(arg=""):
    common = include(__file__, f"tiny_common.py:{arg}")
    data = arg or "runs/maye_ablation/data"
    return common | {
        "name": "maye_tiny_stage1b",
        "data.sources": (
            {"format": "tfds", "path": f"{data}/scenes/study/1.0.0", "split": "vqa"},
            {"format": "geometry_tasks", "answers": "mixed", "sampling": "first:16000"},
        ),
        "data.batch_size": 32,
        "optimizer.rules": ((".*", 2e-3),),
        "train.steps": 1000,
    }
