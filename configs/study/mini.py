"""Two encoders, six arms, three seeds on rendered scenes: the study that two cores finish in an hour or two.

Not a config of a run. It is `configs/demo/study.py` with arms that ask what is behind a difference between SFT and
DPO: "SFT, unlikelihood" sees the rejected answers that plain SFT does not; MPO adds SFT's loss to DPO; SimPO has no
reference.
"""

from pivot_jax.config import include

STAGE3 = ("stage1", "sft", "dpo")  # the arms whose encoder gets a new decoder: the most expensive measurement


def get_config():
    demo = include(__file__, "../demo/study.py")
    stages = {name: stage | {"config": f"../demo/{stage['config']}"} for name, stage in demo["stages"].items()}
    del stages["grpo"]
    pairs = stages["dpo"] | {"measures": stages["sft"]["measures"][:-1]}  # without gradient maps
    # Equal learning rate, epochs and rows in all arms; "sft" and "unlikelihood" take one answer less per row.
    stages |= {
        "unlikelihood": pairs | {
            "set": {"objective.name": "preference", "objective.terms": (("sft", 1.0), ("unlikelihood", 0.5))},
        },
        "mpo": pairs | {"set": {"objective.name": "mpo"}},
        "simpo": pairs | {"set": {"objective.name": "simpo", "objective.beta": 2.0, "objective.simpo_gamma": 1.0}},
    }  # fmt: skip
    for name in ("stage3_projector", "stage3"):
        stages[name] |= {"only": {"arm": STAGE3}}
    return demo | {
        "title": "Does DPO make a multimodal LLM see better than SFT? Two encoders, six arms, three seeds",
        "subtitle": "Rendered scenes, 32-pixel encoders trained from scratch, stages 0 to 3",
        "scope": (
            "The images are rendered and tiny, the models have a few hundred thousand parameters, and the decoder is "
            "not pretrained. These results say nothing about the paper's models.",
            "All arms have the learning rate, rows and epochs of the demo's; none was tuned. A preference step costs "
            "more than one of SFT: see the table of costs.",
        ),
        "seeds": (0, 1, 2),
        "arms": {
            "stage1": ("stage1b", "Stage 1 only"),
            "sft": ("sft", "+ SFT"),
            "unlikelihood": ("unlikelihood", "+ SFT, unlikelihood"),
            "dpo": ("dpo", "+ DPO"),
            "mpo": ("mpo", "+ MPO"),
            "simpo": ("simpo", "+ SimPO"),
        },
        "factors": {
            "encoder": {
                "small": {},
                "large": {
                    ".*": {
                        "model.vision.width": 96,
                        "model.vision.depth": 6,
                        "model.vision.heads": 6,
                        "model.vision.mlp_dim": 384,
                    }
                },
            }
        },
        "stages": stages,
        "endpoints": {
            "Which encoder is better?": {
                "class, encoder": ("arm", "probe", "class, encoder"),
                "class, projector": ("arm", "probe", "class, projector"),
                "segmentation mIoU": ("arm", "probe", "miou"),
                "stage 3 answers": ("stage3", "answers", "accuracy"),
                "stage 3, ranked": ("stage3", "answers", "ranked"),
            },
            "The arms' own answers": demo["endpoints"]["The arms' own answers"],
        },
    }
