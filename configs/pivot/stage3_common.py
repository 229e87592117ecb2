"""Common to both halves of stage 3: encoder and reused projector layers from a pack, both frozen.

Argument: REUSE[,PACK], see stage3_projector.py
"""

from pivot_jax.config import include
from pivot_jax.errors import UserError

NEW_LAYERS = {0: 2, 1: 1, 2: 2}  # "0", "1+1", "2+2"


def get_config(arg=""):
    reuse_text, _, pack = (arg or "1").partition(",")
    if reuse_text not in ("0", "1", "2"):
        raise UserError(f"stage 3: projector reuse '{reuse_text}' is not allowed (allowed: 0, 1, 2)")
    reuse, pack = int(reuse_text), pack or "runs/pivot/stage2_dpo/pack"
    reused = [f"projector/fc{i + 1}" for i in range(reuse)]
    return include(__file__, "common.py") | {
        "init": {"vision": f"pack:{pack}:vision"} | {layer: f"pack:{pack}:{layer}" for layer in reused},
        "model.projector.layers": NEW_LAYERS[reuse],
        "model.projector.reuse": reuse,
        # first match wins: rules after these in the two configs apply to the other parameters
        "optimizer.rules": (("vision/.*", "frozen"), *((f"{layer}/.*", "frozen") for layer in reused)),
    }
