"""Stage 1b, DPO, extraction and stage 3 with encoders other than the default, and with two.

PIVOT's own code reloads the pretrained weights of some families at the start of stage 2, over those that stage 1b
trained. So the encoder at the start of stage 2 is compared with that at the end of stage 1b, bit for bit.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.train import checkpoint
from pivot_jax.train.initialization import initial_params
from pivot_jax.train.model import build_model
from pivot_jax.train.reference import weights_hash
from tests.train.conftest import run_stages


def vit(family, preset, **more):
    settings = {"depth": 2, "family": family, "activation": "gelu", **more}
    return {f"model__vision__{key}": value for key, value in settings.items()} | {"data__image__preset": preset}


# The other families, imported from and exported to folders, are in test_encoder_folders.
FAMILIES = {
    "dinov2": vit("dinov2", "dinov2", registers=2, gated=True),
    "siglip + convnext": vit("siglip", "siglip") | dict(
        model__second__kind="convnext", model__second__image_size=32,
        model__second__widths=(6, 10), model__second__depths=(1, 1),
    ),
    "siglip + dinov2": vit("siglip", "siglip") | dict(
        model__second__kind="vit", model__second__family="dinov2", model__second__image_size=24,
        model__second__width=16, model__second__depth=1, model__second__heads=2, model__second__mlp_dim=24,
    ),
}  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize("name", FAMILIES)
def test_stage_2_starts_from_the_encoder_of_1b_and_stage_3_from_that_of_dpo(world, make_config, tmp_path, name):
    chain = run_stages(world, make_config, tmp_path, ("1b", "dpo", "3"), **FAMILIES[name])
    params = {stage: checkpoint.load_run(chain[stage]) for stage in ("1b", "dpo", "3")}
    config = configs.from_json((chain["dpo"] / "config.json").read_text())
    create = build_model(config, 320).create
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: device, jax.eval_shape(create, jax.random.key(0)))
    start = initial_params(dict(config.init), create, jax.random.key(9), shardings)
    encoders = [part for part in ("vision", "second") if part in start]
    assert len(encoders) == 1 + ("+" in name)
    for part in encoders:
        assert weights_hash(start[part]) == weights_hash(params["1b"][part]), f"{part} of stage 1b enters stage 2"
        assert weights_hash(params["3"][part]) == weights_hash(params["dpo"][part]), f"{part} stays frozen in stage 3"
        before, after = (rules.flatten(params[stage][part]) for stage in ("1b", "dpo"))
        moved = [path for path in before if not np.array_equal(before[path], after[path])]
        unused = [path for path in before if path.startswith("final/")]
        assert not set(moved) & set(unused), "parameters that an MLLM does not compute were trained"
        assert len(moved) > 0.8 * (len(before) - len(unused)), f"DPO trains {part}"
