"""The question that joins both papers, on rendered scenes: seven ways to post-train one Stage-1b MLLM, same prompts.

Not a config of a run. It is `configs/demo/study.py` with the arms that stand between SFT and online RL: SFT on the
model's own right responses (rejection sampling), and DPO on its own pairs of right and wrong. What a difference between
SFT and RL comes from is then seen: whose responses are learnt, whether wrong ones are, or whether they are fresh.
With the encoder trained, and frozen. For two cores.
"""

from pivot_jax.config import include

PROMPTS = {"format": "tfds", "path": "{data}/scenes/study/1.0.0", "split": "preference"}
RATE = 3e-4  # of all arms
STEPS = 185  # of 32 sequences, of the arms that learn from given answers: five passes over the prompts
UPDATES = 200  # of 16 prompts with 8 responses, of online RL
JUDGE = ({"name": "text", "extract": "whole", "column": "chosen"},)
OWN = "{stage1b}/responses/own/data"
POST = "sft|rejection|dpo|dpo_own|grpo|reinforce"  # stages of the arms after Stage 1b


def get_config():
    demo = include(__file__, "../demo/study.py")
    stages = {name: stage | {"config": f"../demo/{stage['config']}"} for name, stage in demo["stages"].items()}
    measured = ("answers", "extract", "probe", "maps")
    for name in ("sft", "dpo", "grpo"):
        stages[name] |= {"measures": measured}
    for name in ("sft", "dpo"):
        stages[name] |= {"set": {"train.steps": STEPS}}
    stages["grpo"] |= {"set": {"train.steps": UPDATES}}
    stages["stage1b"] |= {"measures": (*stages["stage1b"]["measures"], "own")}
    own = {"sft": "right.jsonl", "dpo": "pairs.jsonl"}
    rejection, pairs = (
        stages[name]["set"] | {"data.sources": (PROMPTS | {"responses": f"{OWN}/{own[name]}"},)}
        for name in ("sft", "dpo")
    )
    stages |= {
        "rejection": stages["sft"] | {"set": rejection},
        "dpo_own": stages["dpo"] | {"set": pairs},
        "reinforce": stages["grpo"]
        | {"set": {"train.steps": UPDATES, "rl.algorithm": "reinforce++", "rl.kl_coefficient": 0.0}},
    }
    for name in ("stage3_projector", "stage3"):
        stages[name] |= {"only": {"encoder": ("trained",)}}  # with it frozen, every arm has Stage 1's encoder
    return demo | {
        "title": "What makes RL different from SFT? Seven arms from one model on the same prompts, three seeds",
        "subtitle": "Rendered scenes, a 32-pixel encoder trained from scratch, stages 0 to 3",
        "scope": (
            "The images are rendered and tiny, the models have a few hundred thousand parameters, and the decoder is "
            "not pretrained. These results say nothing about the papers' models.",
            f"All arms have the learning rate {RATE:g}; none was tuned. Arms that learn from given answers make "
            f"{STEPS} updates of 32 sequences, online RL {UPDATES} of 128: see the table of costs.",
            "Prompts that the model never answers right are in neither of the self-made sets, and those that it always "
            "answers right are not among the pairs.",
        ),
        "seeds": (0, 1, 2),
        "arms": {
            "stage1": ("stage1b", "Stage 1 only"),
            "sft": ("sft", "+ SFT"),
            "rejection": ("rejection", "+ SFT, own right responses"),
            "dpo": ("dpo", "+ DPO"),
            "dpo_own": ("dpo_own", "+ DPO, own pairs"),
            "grpo": ("grpo", "+ GRPO"),
            "reinforce": ("reinforce", "+ Reinforce++"),
        },
        "factors": {
            "encoder": {
                "trained": {},
                "frozen": {POST: {"optimizer.rules": (("vision/.*", "frozen"), (".*", RATE))}},
            }
        },
        "stages": stages,
        "measures": {name: one for name, one in demo["measures"].items() if not name.startswith("maps_")}
        | {
            "own": {
                "kind": "responses",
                "set": {
                    "data.sources": (PROMPTS,),
                    "data.batch_size": 100,
                    "rl.responses": 8,
                    "rl.max_tokens": 40,
                    "rl.rewards": JUDGE,
                },
            }
        },
    }
