"""How far rounding alone moves the demo's results: its arms from weights that differ by some roundings of float32.

Not a config of a run. Two kinds of processors round differently, and training carries that on. Here every run starts
from weights that are multiplied by 1 + 1e-6 N(0, 1); the three levels differ in that noise alone, so the differences
between their conditions are what a change of machine does to the same seed.
"""

from pivot_jax.config import include


def get_config():
    demo = include(__file__, "../demo/study.py")
    names = ("stage0", "stage1a", "stage1b", "sft", "dpo")
    stages = {name: demo["stages"][name] | {"config": f"../demo/{demo['stages'][name]['config']}"} for name in names}
    stages["stage1b"] |= {"measures": ("answers", "blank", "extract", "probe")}
    for name in ("sft", "dpo"):
        stages[name] |= {"measures": ("answers", "rewards", "extract", "probe")}
    groups = demo["endpoints"]
    first = {name: one for name, one in groups["Which encoder is better?"].items() if one[0] == "arm"}
    return demo | {
        "title": "How far does rounding alone move the results of the study in miniature?",
        "subtitle": "Rendered scenes, a 32-pixel encoder: the same seeds from weights that differ by 1e-6",
        "arms": {name: demo["arms"][name] for name in ("stage1", "sft", "dpo")},
        "factors": {
            "rounding": {
                level: {".*": {"train.rounding_noise": 1e-6, "train.rounding_seed": number}}
                for number, level in enumerate(("first", "second", "third"))
            }
        },
        "stages": stages,
        "endpoints": {"Which encoder is better?": first, "The arms' own answers": groups["The arms' own answers"]},
        "controls": {name: demo["controls"][name] for name in list(demo["controls"])[:2]},
    }
