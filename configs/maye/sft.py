r"""MAYE's SFT arm on mm_math5k: as many epochs as RL, batches of 16.

Argument: MODEL,rejection; MODEL as in model_common.py

The answers are the golden solutions; with rejection, right responses of the model that training starts from, which is
the control that the paper lacks. It has one run of SFT, and none on geometry3k, which has no solutions. The responses:

    pivot-jax import-hf --folder checkpoints/Qwen2.5-VL-7B-Instruct --workdir runs/maye/start
    pivot-jax sample --workdir runs/maye/start --out runs/maye/samples --config.rl.responses=8 \
        --config.rl.max_tokens=2048 --config.rl.rewards='({"name": "math", "column": "solution"},)' \
        --config.data.sources='({"format": "maye", "path": "data/maye/mm_math_rl_v0.jsonl"},)'
    pivot-jax prepare responses --log runs/maye/samples --out runs/maye/own
"""

from pivot_jax.config import include
from pivot_jax.data.sources.maye import CHAT_SUFFIX

FILE = "data/maye/mm_math_rl_v0.jsonl"
SOLUTIONS = {"format": "qa", "path": FILE, "image_key": "image", "answer_key": "solution", "suffix": CHAT_SUFFIX}
OWN = {"format": "maye", "path": FILE, "responses": "runs/maye/own/right.jsonl"}


def get_config(arg=""):
    words = arg.split(",")
    rejection = "rejection" in words
    model = ",".join(word for word in words if word != "rejection")
    return include(__file__, f"model_common.py:{model}") | {
        "name": "maye_sft_rejection" if rejection else "maye_sft",
        "data.sources": (OWN if rejection else SOLUTIONS,),
        "data.batch_size": 16,
        "objective.name": "sft",
        "optimizer.rules": (("(vision|second|projector)/.*", "frozen"), (".*", 1e-5)),
        "train.epochs": 30.0,
        "hardware": ("h100-8", "v5p-16"),  # 16 rows
    }
