"""Table 1, GRPO: boxes are rewarded by their overlap with the gold box, and the format of thoughts and answer.

VLM-R1's defaults: 8 devices x 8 x 2 completions a step, 8 for each prompt, KL of 0.04, at most 2,048 tokens.
"""

from pivot_jax.config import include

QUESTION = (
    " First output the thinking process in <think> </think> tags and then output the final answer in"
    " <answer> </answer> tags. Output the final answer as [x1, y1, x2, y2]."
)


def get_config():
    common = include(__file__, "vlm_r1_common.py")
    return common | {
        "name": "vlm_r1_grpo",
        "data.sources": tuple(source | {"suffix": QUESTION} for source in common["data.sources"]),
        "data.batch_size": 16,  # prompts: 128 completions
        # For `pivot-jax plan`: a row of training has image, question and four responses.
        "data.max_length": 9216,
        "data.buckets": ((3072, 2048), (9216, 8192)),
        "objective.name": "policy",
        "rl.algorithm": "trl-grpo",
        "rl.responses": 8,
        "rl.responses_per_row": 4,
        "rl.kl_coefficient": 0.04,
        "rl.max_tokens": 2048,
        "rl.rewards": (
            # Qwen2.5-VL names pixels of the image as it reads it: here within 14 pixels of the file's own size.
            {"name": "box", "column": "solution"},
            {"name": "format", "style": "think_answer"},
        ),
        "optimizer.rules": ((".*", 1e-6),),
        "train.accumulate": 2,
    }
