"""A study file of a few stages that tests expand but do not train."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
def get_config(arg=""):
    return {
        "model.vision.width": 32, "model.vision.depth": 2, "model.vision.heads": 2, "model.vision.mlp_dim": 64,
        "model.vision.image_size": 32, "model.vision.patch_size": 8, "data.image.size": 32,
        "model.decoder.vocab_size": 256, "model.decoder.width": 32, "model.decoder.depth": 2,
        "model.decoder.heads": 2, "model.decoder.kv_heads": 1, "model.decoder.mlp_dim": 64,
        "tokenizer.path": "tokenizer", "data.sources": ({"format": "llava", "path": "a.json"},),
        "data.batch_size": 4, "train.steps": 10, "objective.name": arg or "sft",
    }
"""
STUDY = {
    "title": "A study",
    "arms": {"stage1": ("stage1", "Stage 1 only"), "sft": ("sft", "+ SFT"), "dpo": ("dpo", "+ DPO")},
    "seeds": (0, 1),
    "baseline": "sft",
    "stages": {
        "stage0": {"config": "stage.py", "joins": "stage1", "row": (20, 5)},
        "stage1": {"config": "stage.py", "init": {"": "run:{stage0}"}, "measures": ("answers",), "row": (20, 5)},
        "sft": {"config": "stage.py", "init": {"": "run:{stage1}"}, "measures": ("answers",), "row": (20, 5)},
        "dpo": {"config": "stage.py:dpo", "init": {"": "run:{stage1}"}, "measures": ("rewards",), "row": (24, 10)},
        "stage3": {"config": "stage.py", "init": {"vision": "run:{arm}:vision"}, "measures": ("answers",)},
    },
    "measures": {
        "answers": {"benchmark": "scenes", "path": "questions"},
        "rewards": {"kind": "pairs", "reference": "{stage1}", "beta": 0.1, "sources": {}},
    },
    "endpoints": {"Answers": {"stage 3": ("stage3", "answers", "accuracy")}},
}


def write(folder: Path, **changes) -> str:
    """Writes the study with some keys replaced, and its config; returns the study's file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.py").write_text(CONFIG)
    (folder / "study.py").write_text(f"def get_config():\n    return {STUDY | changes!r}\n")
    return str(folder / "study.py")


def stages(**changes) -> dict:
    """The study's stages, some with keys replaced or new ones."""
    return {name: {**STUDY["stages"].get(name, {}), **changes.get(name, {})} for name in {**STUDY["stages"], **changes}}
