"""Stage 1b, DPO, extraction and stage 3 with encoders of every family (C3 and C4 for each).

PIVOT's own code reloads the pretrained weights of some families at the start of stage 2, over those that stage 1b has
trained. So what enters stage 2 is held against what left stage 1b, bit for bit.
"""

from __future__ import annotations

VIT = dict(model__vision__depth=2)
FAMILIES = {
    "clip": VIT
    | dict(model__vision__family="clip", model__vision__activation="quick_gelu", data__image__preset="clip"),
    "dinov2": VIT
    | dict(model__vision__family="dinov2", model__vision__activation="gelu", data__image__preset="dinov2"),
    "dinov2 with registers, gated": VIT
    | dict(model__vision__family="dinov2_with_registers", model__vision__registers=2, data__image__preset="dinov2"),
    "vit_mae": VIT | dict(model__vision__family="vit_mae", model__vision__activation="gelu", data__image__preset="mae"),
    "vit": VIT | dict(model__vision__family="vit", model__vision__activation="gelu", data__image__preset="sup"),
}
