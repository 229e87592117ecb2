"""Stage 2, SFT arm: the chosen answers of 20K pairs of MMPR-v1.2, three epochs (234 steps).

Argument: script, for the released script's learning rate

The paper's text has 5e-6 (appendix E.1 of v2), which is the default, and the released script 1e-5.
"""

from pivot_jax.config import include
from pivot_jax.errors import UserError

RATES = {"": 5e-6, "script": 1e-5}


def get_config(arg=""):
    if arg not in RATES:
        raise UserError(f"stage2_sft.py: unknown argument '{arg}' (allowed: none, script)")
    return include(__file__, "common.py") | {
        "name": "stage2_sft",
        "init": {"": "run:runs/pivot/stage1b"},
        # The authors' 20K ids are not published; random:20000 takes the same rows as stage2_dpo.py.
        "data.sources": ({"format": "mmpr", "path": "data/MMPR-v1.2/meta.json", "sampling": "random:20000"},),
        "data.loss_mask": "pivot",
        "data.buckets": ((768, 192), (1024, 448), (1536, 960), (2048, 1472)),
        "optimizer.rules": ((".*", RATES[arg]),),  # one rate for all parts [C]
        "train.epochs": 3.0,  # [C]; the paper does not print it
    }
