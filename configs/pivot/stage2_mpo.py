"""Stage 2, MPO arm of Tables D and N: the pairs and settings of stage2_dpo.py with InternVL's mixed loss.

0.8 DPO + 0.2 BCO + 1.0 NLL of the chosen answer. The paper prints neither its weights nor its settings. These are
InternVL's weights; its script also has a weight decay of 0.05 and one epoch, which would differ from the DPO arm.
"""

from pivot_jax.config import include


def get_config():
    return include(__file__, "stage2_dpo.py") | {"name": "stage2_mpo", "objective.name": "mpo"}
