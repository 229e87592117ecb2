"""The study of rl_mini.py at the papers' size: SigLIP2 and Qwen2.5-1.5B, MMPR's questions with known answers.

Not a config of a run. Encoder, language model, data and stages are those of pivot.py. All arms share 15,000 questions
whose right answer is known. `pivot-jax study study/rl_full.py --dry-run` prints the cost; sampling is not in the FLOPs.
We have not run it.
"""

from pivot_jax.config import include

COUNT, RESPONSES = 15_000, 8
PROMPTS = {
    "format": "mmpr",
    "path": "data/MMPR-v1.2/meta.json",
    "subsets": ("*correctness_rules*",),
    "sampling": f"random:{COUNT}",
}
RATE = 1e-6  # of all arms
OWN = "{stage1b}/responses/own/data"
POST = "sft|rejection|dpo|dpo_own|grpo|reinforce"
LEVELS = {"encoder": "siglip2-so400m-patch16-384", "language": "Qwen2.5-1.5B-Instruct", "third": "cambrian"}


def get_config():
    full, mini = include(__file__, "pivot.py"), include(__file__, "rl_mini.py")
    stages = {name: full["stages"][name] for name in ("stage1a", "stage1b", "sft", "dpo", "grpo")}
    stages["stage1b"] |= {"measures": (*stages["stage1b"]["measures"], "own")}
    for name in ("sft", "dpo"):
        stages[name] |= {"set": {"data.sources": (PROMPTS,), "train.epochs": 1.0}, "rows": COUNT}

    def own(name):
        return {"data.sources": (PROMPTS | {"responses": f"{OWN}/{name}"},), "train.epochs": 1.0}

    stages |= {
        "rejection": stages["sft"] | {"set": own("right.jsonl")},
        "dpo_own": stages["dpo"] | {"set": own("pairs.jsonl")},
        "reinforce": stages["grpo"] | {"set": {"rl.algorithm": "reinforce++", "rl.kl_coefficient": 0.0}},
    }
    for name in ("stage3_projector", "stage3"):
        stages[name] = full["stages"][name] | {"only": {"training": ("trained",)}}
    return full | {
        "title": "What makes RL different from SFT? Seven arms from one MLLM on the same prompts, at the papers' size",
        "scope": mini["scope"][-1:],
        "arms": mini["arms"],
        "factors": {factor: {level: full["factors"][factor][level]} for factor, level in LEVELS.items()}
        | {
            "reuse": ("1",),
            "training": {
                "trained": {},
                "frozen": {POST: {"optimizer.rules": (("vision/.*", "frozen"), (".*", RATE))}},
            },
        },
        "tables": {},
        "published": {},
        "stages": stages,
        "measures": full["measures"]
        | {
            "own": {
                "kind": "responses",
                "set": {
                    "data.sources": (PROMPTS,),
                    "data.batch_size": 256,
                    "rl.responses": RESPONSES,
                    "rl.max_tokens": 512,
                    "rl.rewards": ({"name": "text", "column": "chosen", "gold": "final"},),
                },
            }
        },
    }
