"""Distribution shift in miniature: post-training on pairs of which 0, 50 or 80 % have long, tagged answers.

Not a config of a run. The paper finds that SFT loses 9 points from such data and DPO none (its Figure B), by exact
match of short answers. Here every arm is scored in two ways: by the answer that it writes, and by which of the answers
it ranks first. A loss in the first alone is one of format, not of sight.
"""

from pivot_jax.config import include

SHARES = (0, 50, 80)


def get_config():
    demo = include(__file__, "../demo/study.py")
    stages = {
        name: demo["stages"][name] | {"config": f"../demo/{demo['stages'][name]['config']}"}
        for name in ("stage0", "stage1a", "stage1b", "sft", "dpo")
    }
    stages["stage1b"] |= {"measures": ("answers", "blank")}
    # A reasoned pair has some 40 tokens more in each answer.
    stages["sft"] |= {"measures": ("answers",), "row": (60, 28)}
    stages["dpo"] |= {"measures": ("answers", "rewards"), "row": (92, 60)}
    rows = demo["data"]["sizes"]["preference"] // 2
    pairs = {"format": "tfds", "path": "{data}/scenes/study/1.0.0", "split": "preference"}
    world = demo["data"]["world"] | {"reasoning_share": 0.8}
    # Enough reasoned pairs for 80 %, and enough others for 0 %.
    sizes = demo["data"]["sizes"] | {"preference": 5 * rows}
    return demo | {
        "title": "Distribution shift in miniature: is what SFT loses sight, or the format of answers?",
        "subtitle": "Rendered scenes, a 32-pixel encoder, pairs with 0, 50 and 80 % of long, tagged answers",
        "data": demo["data"] | {"world": world, "sizes": sizes},
        "arms": {name: demo["arms"][name] for name in ("stage1", "sft", "dpo")},
        "factors": {
            "reasoned": {
                f"{share}%": {
                    "sft|dpo": {"data.sources": (pairs | {"filter": f"shift_only:{share}:{rows}"},), "rows": rows}
                }
                for share in SHARES
            }
        },
        "stages": stages,
        "endpoints": {
            "The arms' own answers": {
                "written": ("arm", "answers", "accuracy"),
                "ranked": ("arm", "answers", "ranked"),
            }
        },
        "controls": {name: demo["controls"][name] for name in list(demo["controls"])[:2]},
    }
