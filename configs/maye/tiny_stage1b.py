"""Stage 1b of the ablation's tiny Qwen2.5-VL: questions about scenes, and geometry with and without the working.

Argument: DATA, see tiny_common.py

One run of seed 0 answers 42 % of the test questions (600, sampled at T = 1), which leaves RL something to learn. With a
learning rate of 2e-3 the answers did not depend on the image.
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
        "optimizer.rules": ((".*", 6e-4),),
        "optimizer.warmup_ratio": 0.1,
        "train.steps": 1000,
    }
