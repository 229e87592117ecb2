"""The study of `make demo`: Stage 1 only, SFT, DPO and GRPO in miniature, two seeds.

Not a config of a run. Its keys: ``pivot_jax/study/matrix.py``.
"""

# Chosen such that a model of 0.3M parameters learns it within minutes (trial on one core: 55 % of test answers after
# 900 steps of stage 1b, 20 % with a blank image). Always two things: in a world with single ones there are so few
# layouts that a model learns which are missing. Fields: data.scenes.World.
WORLD = {
    "image_size": 32,
    "grid": 2,
    "min_objects": 2,
    "max_objects": 2,
    "colors": ("red", "green", "blue", "yellow"),
    "shapes": ("circle", "square", "triangle"),
    "digit_share": 0.1,
    "noise": 8.0,
    "turns": 1,
    "sentence_share": 0.15,
    "describe_share": 1.0,
    "questions": (
        ("color", 0.28),
        ("shape", 0.24),
        ("place", 0.2),
        ("count", 0.08),
        ("digit", 0.06),
        ("compare", 0.06),
        ("relation", 0.04),
        ("exists", 0.04),
    ),
}
SIZES = {
    "caption": 3000,
    "vqa": 16000,
    "stage3": 4000,
    "preference": 1200,
    "preference_test": 400,
    "probe_train": 800,
    "probe_val": 300,
    "probe_test": 800,
    "test": 600,
}
TEST = {"kind": "answers", "benchmark": "scenes", "path": "{data}", "max_new_tokens": 16, "ranked": True}
MEASURED = ("answers", "rewards", "extract", "probe")  # on every arm
MAPS = {"kind": "gradient_maps", "path": "{data}", "pairs": 48}


def pairs(split):
    return {"format": "tfds", "path": "{data}/scenes/study/1.0.0", "split": split}


def post_training(config, minutes, **more):
    """An arm's stage after stage 1b, with everything that is measured on it."""
    return {
        "config": config,
        "init": {"": "run:{stage1b}"},
        "measures": MEASURED,
        "rows": SIZES["preference"],
        "row": (52, 20),  # mean tokens and targets: for FLOPs before anything has run
        "minutes": minutes,
    } | more


def get_config():
    return {
        "title": "Does RL make a multimodal LLM see better than SFT? The study in miniature",
        "subtitle": "PIVOT-JAX demo: rendered scenes, a 32-pixel encoder, stages 0 to 3",
        "scope": (
            "The images are rendered and tiny, the models have a few hundred thousand parameters, and the decoder is "
            "not pretrained. These results say nothing about the paper's models.",
            "Each arm uses one learning rate; there was no equal search for the best one.",
            "The arms start from the same checkpoints and read the same prompts, but not for the same time: see the "
            "table of costs. SFT learns the chosen answers, DPO the pairs; GRPO samples answers and learns from "
            "whether they are right.",
        ),
        "data": {"kind": "scenes", "world": WORLD, "sizes": SIZES, "seed": 0, "vocabulary": 512},
        # A training seed changes everything from stage 0 on: weights, order of rows, heads of the probes. Images and
        # texts are the same for all.
        "seeds": (0, 1),
        "arms": {
            "stage1": ("stage1b", "Stage 1 only"),
            "sft": ("sft", "+ SFT"),
            "dpo": ("dpo", "+ DPO"),
            "grpo": ("grpo", "+ GRPO"),
        },
        "baseline": "sft",
        "stages": {
            "stage0": {"config": "stage0.py:{data}", "joins": "stage1a", "row": (20, 0), "minutes": 0.7},
            "stage1a": {
                "config": "stage1a.py:{data}",
                "init": {"vision": "run:{stage0}"},
                "joins": "stage1b",
                "row": (33, 16),
                "minutes": 0.3,
            },
            "stage1b": {
                "config": "stage1b.py:{data}",
                "init": {"": "run:{stage1a}"},
                "measures": ("answers", "blank", "majority", "extract", "probe", "maps"),
                "row": (65, 20),
                "minutes": 3.5,
            },
            "sft": post_training("sft.py:{data}", 1.0, measures=(*MEASURED, "maps_sft"), row=(40, 8)),
            "dpo": post_training("dpo.py:{data}", 1.5, measures=(*MEASURED, "maps_dpo")),
            "grpo": post_training("grpo.py:{data}", 3.0, rows=0, row=(300, 200)),
            "stage3_projector": {
                "config": "stage3_projector.py:{data}",
                "init": {"vision": "pack:{arm}:vision", "projector/fc1": "pack:{arm}:projector/fc1"},
                "joins": "stage3",
                "row": (33, 16),
                "minutes": 0.2,
            },
            "stage3": {
                "config": "stage3.py:{data}",
                "init": {"": "run:{stage3_projector}"},
                "measures": ("answers",),
                "row": (65, 20),
                "minutes": 1.2,
            },
        },
        "measures": {
            "answers": TEST,
            "blank": TEST | {"blank": True},
            "majority": {"path": "{data}"},
            "rewards": {
                "kind": "pairs",
                "reference": "{stage1b}",
                "beta": 0.1,
                "sources": {"training pairs": pairs("preference"), "unseen pairs": pairs("preference_test")},
            },
            "extract": {},
            "probe": {"kind": "scenes_probe", "path": "{data}", "world": WORLD, "heads": 2},
            "maps": MAPS | {"losses": ("sft", "dpo")},
            "maps_sft": MAPS | {"losses": ("sft",)},
            "maps_dpo": MAPS | {"losses": ("dpo",)},
        },
        "endpoints": {
            "Which encoder is better?": {
                "stage 3 answers": ("stage3", "answers", "accuracy"),
                "stage 3, ranked": ("stage3", "answers", "ranked"),
                "class, encoder": ("arm", "probe", "class, encoder"),
                "class, projector": ("arm", "probe", "class, projector"),
                "segmentation mIoU": ("arm", "probe", "miou"),
            },
            "The arms' own answers": {
                "answers (generated)": ("arm", "answers", "accuracy"),
                "answers (options ranked)": ("arm", "answers", "ranked"),
            },
        },
        "controls": {
            "Stage 1b": ("stage1b", "answers", "accuracy"),
            "Stage 1b, blank image": ("stage1b", "blank", "accuracy"),
            "Most frequent answer": ("stage1b", "majority", "accuracy"),
        },
        "threads": 1,  # the models are so small that one core per job is the fastest use of several
        "platform": "cpu",  # a GPU would be slower at this size, and would round differently
    }
