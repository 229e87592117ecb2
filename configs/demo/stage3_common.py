"""Common to both halves of stage 3: encoder and reused projector layers from an arm's pack, both frozen.

Argument: DATA,REUSE

DATA as in common.py. REUSE is the number of frozen layers of the arm's projector before the new ones: 0, 1 ("1+1", the
default) or 2 ("2+2"). The study names the pack; by hand it is that of ``runs/demo/cells/dpo,seed0``.
"""

from pivot_jax.config import include
from pivot_jax.errors import UserError

NEW_LAYERS = {"0": 2, "1": 1, "2": 2}


def get_config(arg=""):
    data, _, reuse = arg.partition(",")
    reuse = reuse or "1"
    if reuse not in NEW_LAYERS:
        raise UserError(f"stage 3: '{arg}' is not DATA,REUSE with a reuse of 0, 1 or 2")
    pack = "pack:runs/demo/cells/dpo,seed0/dpo/pack"
    layers = [f"projector/fc{number}" for number in range(1, int(reuse) + 1)]
    return include(__file__, f"common.py:{data}") | {
        "init": {"vision": f"{pack}:vision"} | {layer: f"{pack}:{layer}" for layer in layers},
        "model.projector.layers": NEW_LAYERS[reuse],
        "model.projector.reuse": int(reuse),
        "optimizer.rules": (("vision/.*", "frozen"), *((f"{layer}/.*", "frozen") for layer in layers)),
    }
