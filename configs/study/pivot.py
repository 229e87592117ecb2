"""The paper's tables and figures at full size, by name, with the controls that they lack.

Not a config of a run. `pivot-jax study study/pivot.py --dry-run` prints runs, FLOPs and hours of each table. Tables
share what they have in common: one Stage 1b per encoder, language model and seed. Models are in checkpoints/, data in
data/, as for configs/pivot. Table C's PPO is here our own (see stage2_ppo.py), beside GRPO on the same questions.
Sampling of online RL is not in the FLOPs. Text-only benchmarks are `pivot-jax text --tasks`.
"""

RANDOM = "random:{}"
MMPR = {"format": "mmpr", "path": "data/MMPR-v1.2/meta.json"}
POST = "sft|dpo|mpo"
RESPONSES = 8  # of online RL to a prompt, of some 200 tokens each
RATES = ("8e-7", "1e-6", "2e-6", "3e-6", "5e-6", "1e-5")  # Figure A
SIGLIP2 = ("siglip2-base-patch16-384", "siglip2-large-patch16-384", "siglip2-so400m-patch16-384",
           "siglip2-giant-opt-patch16-384")  # fmt: skip
SO, LARGE = SIGLIP2[2], SIGLIP2[1]
# The paper's benchmarks, asked and scored as its suite does (Cambrian-1), and their folders below data/
BENCHMARKS = {
    "mme": "MME", "mmbench": "MMBench_EN", "seed": "SEED-Bench", "gqa": "GQA", "scienceqa": "ScienceQA",
    "mmmu": "MMMU", "mathvista": "MathVista", "ai2d": "ai2d", "chartqa": "ChartQA", "ocrbench": "OCRBench",
    "textvqa": "textvqa", "docvqa": "DocVQA", "mmvp": "MMVP", "realworldqa": "RealWorldQA",
    "cv-bench-2d": "CV-Bench", "cv-bench-3d": "CV-Bench",
}  # fmt: skip
# Table 2's other encoders: name on the hub, pixels, preprocessing
OTHERS = {
    "siglip-so400m-patch14-384": ("google/siglip-so400m-patch14-384", 384, "siglip"),
    "clip-vit-large-patch14": ("openai/clip-vit-large-patch14", 224, "clip"),
    "dinov2-giant": ("facebook/dinov2-giant@518", 518, "dinov2"),
    "vit-mae-huge": ("facebook/vit-mae-huge", 224, "mae"),
    "moco-v3-vit-b": ("nyu-visionx/moco-v3-vit-b", 224, "moco"),
    "vit-huge-patch14-224-in21k": ("google/vit-huge-patch14-224-in21k", 224, "vit"),
}
QWEN = {size: f"Qwen2.5-{size}-Instruct" for size in ("0.5B", "1.5B", "3B", "7B")}

# The paper's scores of MMVP and ScienceQA, SFT and DPO (Tables Q, R, S, D, O and N).
SIZES = {  # Qwen2.5-3B
    SIGLIP2[0]: ((42.7, 83.6), (45.3, 83.7)),
    SIGLIP2[1]: ((43.3, 85.5), (48.7, 85.6)),
    SIGLIP2[2]: ((47.5, 86.8), (52.0, 87.0)),
    SIGLIP2[3]: ((48.0, 86.9), (52.0, 87.9)),
}
LANGUAGES = {
    "0.5B": ((25.3, 75.1), (28.0, 76.2)),
    "1.5B": ((44.0, 86.6), (50.0, 86.7)),
    "7B": ((46.0, 91.8), (59.3, 92.4)),
}
AMOUNTS = {
    "3K": ((40.7, 86.8), (46.7, 86.2)),
    "5K": ((38.7, 86.6), (47.3, 86.0)),
    "10K": ((44.6, 86.0), (49.0, 86.1)),
    "40K": ((45.3, 85.9), (51.9, 86.4)),
    "nothink": ((46.7, 85.5), (47.3, 86.1)),
    "under30": ((45.3, 85.9), (47.3, 86.2)),
}
LARGE_ARMS = {"sft": (44.6, 86.0), "dpo": (51.3, 86.2), "mpo": (53.3, 87.0)}
SHORT_3B = {"nothink": ((49.3, 87.4), (52.7, 88.7)), "under30": ((50.0, 88.3), (53.3, 87.6))}
FROZEN = {"base": (36.0, 72.9), "sft": (36.3, 73.3), "dpo": (38.3, 73.9), "mpo": (39.0, 72.3)}
TABLE_1 = {"vlm_r1_sft": (44.0, 78.0), "vlm_r1_grpo": (43.0, 79.3)}


def published():
    """The paper's numbers by endpoint, for the cells with the same setting."""
    plain = {"data": "20K", "rate": "paper"}
    found = []
    for encoder, by_arm in SIZES.items():
        found.append((plain | {"encoder": encoder, "language": QWEN["3B"]}, by_arm))
    for size, by_arm in LANGUAGES.items():
        found.append((plain | {"encoder": SO, "language": QWEN[size]}, by_arm))
    for data, by_arm in AMOUNTS.items():
        found.append((plain | {"encoder": SO, "language": QWEN["1.5B"], "data": data}, by_arm))
    for data, by_arm in SHORT_3B.items():
        found.append((plain | {"encoder": SO, "language": QWEN["3B"], "data": data}, by_arm))
    cells = [
        (levels | {"arm": arm}, scores)
        for levels, by_arm in found
        for arm, scores in zip(("sft", "dpo"), by_arm, strict=True)
    ]
    large = plain | {"encoder": LARGE, "language": QWEN["1.5B"]}
    cells += [(large | {"arm": arm}, scores) for arm, scores in LARGE_ARMS.items()]
    cells += [({"arm": arm}, scores) for arm, scores in TABLE_1.items()]
    frozen = plain | {"encoder": SO, "language": QWEN["1.5B"], "reuse": "1", "third": "cambrian"}
    after = [(frozen | {"arm": arm}, scores) for arm, scores in FROZEN.items()]
    own, new = "Answers of the arms", "Answers of a new model on the frozen encoder"
    return {
        group: {
            name: tuple((levels, scores[i]) for levels, scores in rows) for i, name in enumerate(("mmvp", "scienceqa"))
        }
        for group, rows in ((own, cells), (new, after))
    }


def rows(count, **more):
    """A level of the data: that many rows for every arm, the same ids; smaller sets are parts of larger ones."""
    source = MMPR | {"sampling": RANDOM.format(count)} | more
    return {POST: {"data.sources": (source,), "rows": count}}


def encoder(name, pixels, preset):
    return {".*": {"model.vision.name": name, "data.image.size": pixels, "data.image.preset": preset}}


def post_training(config, **more):
    return {
        "config": f"../pivot/{config}",
        "init": {"": "run:{stage1b}"},
        "measures": ("mmvp", "mmvp_blank", "scienceqa", "extract"),
        "rows": 20000,
        "row": (576 + 330, 280),
    } | more


def get_config():
    first, answers = QWEN["1.5B"], (*BENCHMARKS, "mmvp_blank")
    plain = {"encoder": (SO,), "language": (first,), "data": ("20K",), "rate": ("paper",), "reuse": ("1",),
             "third": ("cambrian",)}  # fmt: skip
    own = plain | {"without": ("stage3_projector", "stage3")}  # tables of the arms' own answers
    arms, three = ("stage1", "sft", "dpo"), {"language": (QWEN["3B"],)}
    return {
        "title": "RL makes MLLMs see better than SFT: the paper's tables",
        "arms": {
            # The original encoder with a projector of the same provenance as the arms': Stage 1a trains no encoder.
            "base": ("stage1a", "Original encoder"),
            "stage1": ("stage1b", "Stage 1 only"),
            "sft": ("sft", "+ SFT"),
            "dpo": ("dpo", "+ DPO"),
            "mpo": ("mpo", "+ MPO"),
            "grpo": ("grpo", "+ GRPO"),
            "ppo": ("ppo", "+ PPO"),
            "vlm_r1_sft": ("vlm_r1_sft", "Qwen2.5-VL-3B + SFT"),
            "vlm_r1_grpo": ("vlm_r1_grpo", "Qwen2.5-VL-3B + GRPO"),
        },
        "baseline": "sft",
        "seeds": (0, 1, 2),
        "factors": {
            "encoder": {name: encoder(f"google/{name}", 384, "siglip") for name in SIGLIP2}
            | {name: encoder(*about) for name, about in OTHERS.items()},
            "language": {
                name: {".*": {"model.decoder.name": f"Qwen/{name}", "tokenizer.path": f"checkpoints/{name}"}}
                for name in QWEN.values()
            },
            "data": {
                "20K": rows(20000),
                **{
                    f"{count // 1000}K": rows(count)
                    for count in (3000, 5000, 10000, 40000, 60000, 80000, 100000, 150000)
                },
                "shift0": rows(20000, filter="shift:0:20000"),
                "shift50": rows(20000, filter="shift:50:20000"),
                "shift80": rows(20000, filter="shift:80:20000"),
                "nothink": rows(20000, filter="nothink"),
                "under30": rows(20000, filter="under30"),
            },
            "rate": {"paper": {}, **{rate: {"sft|dpo": {"optimizer.rules": ((".*", float(rate)),)}} for rate in RATES}},
            "reuse": ("0", "1", "2"),
            "third": {
                "cambrian": {},
                "onevision": {
                    "stage3": {
                        "rows": 3_200_000,
                        "data.sources": (
                            {
                                "format": "llava_yaml",
                                "path": "data/onevision/single_image.yaml",
                                "image_root": "data/onevision/images",
                            },
                        ),
                    }
                },
                "whole": {"stage3": {"optimizer.rules": ((".*", 1e-5),)}},  # Table J: the encoder is trained too
            },
        },
        "tables": {
            "Table Q, Figure 2: size of the encoder": own | three | {"encoder": SIGLIP2, "arm": arms},
            "Table R, Figure 3: size of the language model": own | {"language": tuple(QWEN.values()), "arm": arms},
            "Table S, Figures 4 and C: amount of data": own | {"data": ("3K", "5K", "10K", "20K", "40K"), "arm": arms},
            "Table L: much data": own
            | {"encoder": (LARGE,), "data": ("20K", "40K", "60K", "80K", "100K", "150K"), "arm": arms},
            "Tables D and N: MPO": plain | {"encoder": (LARGE, SO), "arm": (*arms, "mpo")},
            "Table 1: GRPO and SFT of Qwen2.5-VL": own | {"arm": ("vlm_r1_sft", "vlm_r1_grpo")},
            "Table C: online RL": own | {"arm": (*arms, "grpo", "ppo")},
            "Figure A: learning rates": own | three | {"rate": RATES, "arm": ("sft", "dpo")},
            "Figure B: distribution shift": own | three | {"data": ("shift0", "shift50", "shift80"), "arm": arms},
            "Tables E and O: short answers": own
            | {"language": (first, QWEN["3B"]), "data": ("20K", "nothink", "under30"), "arm": arms},
            "Table 2: PIVOT on other encoders": plain | {"encoder": (SO, SIGLIP2[3], *OTHERS), "arm": ("base", *arms)},
            "Table H: reuse of the projector": plain
            | {"language": (QWEN["0.5B"], first), "reuse": ("0", "1", "2"), "arm": ("base", "dpo")},
            "Table I: data of Stage 3": plain
            | {"language": (QWEN["0.5B"], first), "third": ("cambrian", "onevision"), "arm": ("base", "dpo")},
            "Table J: all trained in Stage 3": plain
            | {"language": (QWEN["0.5B"], first), "third": ("cambrian", "whole"), "arm": ("base", "dpo")},
        },
        "stages": {
            "stage1a": {
                "config": "../pivot/stage1a.py",
                "init": {"vision": "hf:checkpoints/{encoder}", "decoder": "hf:checkpoints/{language}"},
                "measures": ("extract",),
                "rows": 558_000,
                "row": (576 + 20, 20),
            },
            "stage1b": {
                "config": "../pivot/stage1b.py",
                "init": {"": "run:{stage1a}"},
                "measures": (*answers, "extract"),
                "rows": 3_200_000,
                "row": (576 + 250, 150),
            },
            "sft": post_training("stage2_sft.py", row=(576 + 180, 140)),
            "dpo": post_training("stage2_dpo.py"),
            "mpo": post_training("stage2_mpo.py"),
            "grpo": post_training("stage2_grpo.py", rows=15000, row=(576 + 80 + 200 * RESPONSES, 200 * RESPONSES)),
            "ppo": post_training("stage2_ppo.py", rows=120_000, row=(576 + 280, 200)),
            "vlm_r1_sft": post_training("vlm_r1_sft.py", init={}, measures=answers, rows=0, row=(391 + 60, 25)),
            "vlm_r1_grpo": post_training(
                "vlm_r1_grpo.py", init={}, measures=answers, rows=0, row=(391 + 100 + 200 * RESPONSES, 200 * RESPONSES)
            ),
            "stage3_projector": {
                "config": "../pivot/stage3_projector.py:{reuse},{arm}/pack",
                "set": {},
                "rows": 558_000,
                "row": (576 + 20, 20),
            },
            "stage3": {
                "config": "../pivot/stage3.py:{reuse}",
                "init": {"": "run:{stage3_projector}"},
                "measures": answers,
                "rows": 737_000,
                "row": (576 + 200, 80),
            },
        },
        "measures": {
            **{
                name: {
                    "kind": "answers",
                    "benchmark": name,
                    "path": f"data/{folder}",
                    "toolkit": "cambrian",
                    "ranked": name == "mmvp",
                }
                for name, folder in BENCHMARKS.items()
            },
            "mmvp_blank": {
                "kind": "answers",
                "benchmark": "mmvp",
                "path": "data/MMVP",
                "toolkit": "cambrian",
                "blank": True,
            },
            "extract": {},
        },
        "endpoints": {
            "Answers of the arms": {
                **{name: ("arm", name, "accuracy") for name in BENCHMARKS},
                "mmvp, ranked": ("arm", "mmvp", "ranked"),
            },
            "Answers of a new model on the frozen encoder": {
                **{name: ("stage3", name, "accuracy") for name in BENCHMARKS},
            },
        },
        "published": published(),
        "controls": {"Stage 1b": ("stage1b", "mmvp", "accuracy"), "blank image": ("stage1b", "mmvp_blank", "accuracy")},
        "machine": {"chip": "h100", "chips": 8, "mfu": 0.4},
        "threads": 8,
    }
