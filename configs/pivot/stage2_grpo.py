"""Stage 2, GRPO arm: online RL on MMPR's questions with checked answers, in the architecture of the other arms.

The paper's GRPO is another model on other data: vlm_r1_grpo.py. This one differs from stage2_dpo.py in the objective
alone, as far as it can: questions whose chosen answers were checked against a known one, so that a final answer can be
right or wrong, and as many sequences as the DPO arm sees: 20K pairs, three epochs, are 120K answers, here 15K prompts
with eight responses.
"""

from pivot_jax.config import include


def get_config():
    return include(__file__, "common.py") | {
        "name": "stage2_grpo",
        "init": {"": "run:runs/pivot/stage1b"},
        "data.sources": (
            {
                "format": "mmpr",
                "path": "data/MMPR-v1.2/meta.json",
                "subsets": ("*correctness_rules*",),
                "sampling": "random:15000",
            },
        ),
        # For `pivot-jax plan`: a row of training has image, question and all eight responses.
        "data.max_length": 5120,
        "data.buckets": ((2560, 1792), (5120, 4096)),
        "data.batch_size": 64,
        "objective.name": "policy",
        "rl.algorithm": "trl-grpo",
        "rl.responses": 8,
        "rl.max_tokens": 512,
        # The chosen answer is a worked one that ends with the known answer.
        "rl.rewards": ({"name": "text", "column": "chosen", "gold": "final"},),
        "optimizer.rules": ((".*", 1e-6),),  # the DPO arm's
        "train.epochs": 1.0,
        "train.accumulate": 2,
    }
