"""The PIVOT stages with every family of encoders, imported from a Hugging Face folder and exported to one."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from pivot_jax import hub, rules
from pivot_jax.errors import UserError
from pivot_jax.hub import processors
from pivot_jax.hub.folder import write_image_processor
from pivot_jax.models import zoo
from pivot_jax.train import checkpoint, setup
from pivot_jax.train.model import build_model
from pivot_jax.train.open import open_encoder
from pivot_jax.train.run import run
from pivot_jax.train.source import run_config
from tests.tiny import hf
from tests.train.conftest import run_stages

KINDS = [kind for kind in hf.ENCODERS if kind != "siglip2_vision_model"]  # NaFlex takes no square images


@pytest.fixture
def folder(tmp_path):
    def make(kind: str):
        out = tmp_path / kind
        hf.save(hf.encoder(kind), out)
        cfg = hub.read_config(out).vision
        write_image_processor(out, processors.write(cfg))
        return out, cfg

    return make


def settings(cfg) -> dict:
    """``config.model.vision`` of an encoder."""
    names = ("image_size", "patch_size", "width", "depth", "heads", "mlp_dim", "family", "eps", "activation")
    values = {name: getattr(cfg, name) for name in (*names, "pool_head", "registers", "gated")}
    return {f"model__vision__{name}": value for name, value in values.items()} | {
        "data__image__size": cfg.image_size,
        "data__image__preset": cfg.preset,
    }


def same(a, b) -> None:
    a, b = rules.flatten(a), rules.flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_of_a_run_is_the_encoder_of_its_folder_and_every_used_parameter_trains(folder, make_config, kind):
    out, cfg = folder(kind)
    config = make_config(**settings(cfg))
    assert zoo.build(config.model, config.data.image).vision == cfg
    like = setup.jax.eval_shape(build_model(config, 300).create, setup.root_key(config))
    loaded = rules.flatten(hub.load_params(out)["vision"])
    assert {path: leaf.shape for path, leaf in rules.flatten(like["vision"]).items()} == {
        path: leaf.shape for path, leaf in loaded.items()
    }
    rates = setup.partition.peak_rates(setup._rules(config, like), like)
    frozen = {path.removeprefix("vision/") for path, rate in rates.items() if rate == "frozen"}
    assert frozen == {path for path in loaded if path.startswith("final/")}
    opened = open_encoder(f"hf:{out}")
    assert (opened.geometry.preset, opened.geometry.size, opened.module.config.vision) == (cfg.preset, 24, cfg)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_encoders_pass_through_the_stages(folder, world, make_config, tmp_path, kind):
    """Stage 1a starts from the folder's encoder, stage 2 from that of 1b, stage 3 from that of DPO; then it exports."""
    out, cfg = folder(kind)
    names = ("1a", "1b", "dpo", "3")
    chain = run_stages(world, make_config, tmp_path / "chain", names, init={"vision": f"hf:{out}"}, **settings(cfg))
    params = {name: checkpoint.load_run(chain[name])["vision"] for name in names}
    same(params["1a"], hub.load_params(out)["vision"])
    same(params["3"], params["dpo"])
    moved = rules.flatten(params["1b"])
    for path, leaf in rules.flatten(params["dpo"]).items():
        assert np.array_equal(leaf, moved[path]) == path.startswith("final/") or path.endswith("attn/k/bias"), path
    config = run_config(chain["dpo"])
    vision = zoo.build(config.model, config.data.image).vision
    exported = hub.export_encoder({"vision": params["dpo"]}, vision, tmp_path / "exported")
    same(hub.load_params(exported)["vision"], params["dpo"])
    assert hub.read_config(exported).vision == vision
    hf.ENCODERS[kind].from_pretrained(exported)


@pytest.mark.heavy
def test_an_encoder_without_its_last_layers_trains_and_resumes(make_config, tmp_path):
    """The encoders of LLaVA-OneVision and exports with ``drop_last`` end with the block that features come from."""
    whole = run(make_config(train__steps=1), tmp_path / "whole").workdir
    vision = zoo.build(make_config().model, make_config().data.image).vision
    hub.export_encoder(checkpoint.load_run(whole), vision, tmp_path / "short", drop_last=True)
    config = make_config(init={"vision": f"hf:{tmp_path / 'short'}"}, train__steps=2)
    assert run(config, tmp_path / "run").step == 2
    params = checkpoint.load_run(tmp_path / "run")
    assert "final" not in params["vision"] and params["vision"]["blocks"]
    shutil.rmtree(tmp_path / "short")
    assert run(config, tmp_path / "run").step == 2  # the checkpoint says which parameters the run has
    stage0 = make_config(init={"vision": f"run:{tmp_path / 'run'}"}, objective__name="contrastive")
    with pytest.raises(UserError, match="source lacks 'vision/final/.*; take a whole encoder"):
        run(stage0, tmp_path / "stage0")
