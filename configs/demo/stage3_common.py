"""Common to both halves of stage 3: encoder and reused projector layers from an arm's pack, both frozen.

Argument: FOLDER,ARM,REUSE: stage1, sft, dpo or grpo; 0, 1 or 2

By default runs/demo/seed0,dpo,1. FOLDER has one seed's runs. REUSE is the number of frozen layers of the arm's
projector before the new ones: 0, 1 ("1+1") or 2 ("2+2").
"""

from pivot_jax.config import include
from pivot_jax.errors import UserError

NEW_LAYERS = {"0": 2, "1": 1, "2": 2}


def get_config(arg=""):
    folder, arm, reuse, *more = (*arg.split(","), "", "") if arg else ("", "", "")
    folder, arm, reuse = folder or "runs/demo/seed0", arm or "dpo", reuse or "1"
    if reuse not in NEW_LAYERS or any(more):
        raise UserError(f"stage 3: '{arg}' is not FOLDER,ARM,REUSE with a reuse of 0, 1 or 2")
    pack = f"pack:{folder}/pack_{arm}"
    layers = [f"projector/fc{number}" for number in range(1, int(reuse) + 1)]
    return include(__file__, f"common.py:{folder}") | {
        "init": {"vision": f"{pack}:vision"} | {layer: f"{pack}:{layer}" for layer in layers},
        "model.projector.layers": NEW_LAYERS[reuse],
        "model.projector.reuse": int(reuse),
        "optimizer.rules": (("vision/.*", "frozen"), *((f"{layer}/.*", "frozen") for layer in layers)),
    }
