"""The arms of rl_mini.py with real parts: SmolLM2-135M-Instruct and easy-VQA; and two that make RL look at the image.

Not a config of a run. It is `configs/real/study.py` with more arms. NoisyRollout samples half of the responses from
noised images; PAPO rewards log-probs that a masked image would change. What to install: configs/real/common.py.
"""

from pivot_jax.config import include

PROMPTS = {"format": "trl", "path": "{data}/data/pairs.jsonl"}
RATE = 2e-5  # of all arms
OWN = "{stage1b}/responses/own/data"
POST = "sft|rejection|dpo|dpo_own|grpo|reinforce|noisy|papo"


def get_config():
    mini, real = include(__file__, "rl_mini.py"), include(__file__, "../real/study.py")
    stages = {name: stage | {"config": f"../real/{stage['config']}"} for name, stage in real["stages"].items()}
    del stages["stage1b_full"]
    stages["stage1b"] |= {"measures": (*stages["stage1b"]["measures"], "own")}
    steps = {"train.steps": 125}  # what an epoch of the 4,000 prompts is

    def own(name):
        return steps | {"data.sources": (PROMPTS | {"responses": f"{OWN}/{name}"},)}

    def online(**changes):
        return stages["grpo"] | {"set": {key.replace("__", "."): value for key, value in changes.items()}}

    stages |= {
        "rejection": stages["sft"] | {"set": own("right.jsonl")},
        "dpo_own": stages["dpo"] | {"set": own("pairs.jsonl")},
        "reinforce": online(rl__algorithm="reinforce++", rl__kl_coefficient=0.0),
        "noisy": online(rl__noise_share=0.5),
        "papo": online(rl__perception_coefficient=0.01),
    }
    for name in ("stage3_projector", "stage3"):
        stages[name] |= {"only": {"encoder": ("trained",)}}
    controls = {name: one for name, one in real["controls"].items() if one[0] != "stage1b_full"}
    return real | {
        "title": "What makes RL different from SFT? Nine arms from one model on the same prompts",
        "scope": (*real["scope"], mini["scope"][-1]),
        "arms": mini["arms"]
        | {
            "noisy": ("noisy", "+ GRPO, NoisyRollout"),
            "papo": ("papo", "+ GRPO, PAPO"),
        },
        "factors": {
            "encoder": {
                "trained": {},
                "frozen": {POST: {"optimizer.rules": (("vision/.*", "frozen"), (".*", RATE))}},
            }
        },
        "stages": stages,
        "measures": real["measures"]
        | {
            "own": {
                "kind": "responses",
                "set": {
                    "data.sources": (PROMPTS,),
                    "data.batch_size": 200,
                    "rl.responses": 4,
                    "rl.max_tokens": 6,
                    "rl.block": 2,
                    "rl.rewards": ({"name": "exact", "extract": "whole", "column": "chosen"},),
                },
            }
        },
        "controls": controls,
    }
