"""MAYE's recipes: the paper's numbers, where paper and released script disagree, and the hardware that they name."""

from __future__ import annotations

import pytest

import pivot_jax as pj
from pivot_jax.errors import UserError
from pivot_jax.objectives.presets import algorithm_of
from pivot_jax.plan import topology
from pivot_jax.train.setup import rows_of_step
from tests.tiny.maye import MODELS, RECIPES, of_qwen, words


@pytest.mark.parametrize("data", ["mm_math5k", "geometry3k"])
@pytest.mark.parametrize("model", MODELS)
def test_the_numbers_are_the_papers(data, model):
    config = pj.config(f"maye/{data}.py:{model}")
    algorithm = algorithm_of(config.rl)
    assert config.train.epochs == {"mm_math5k": 30.0, "geometry3k": 50.0}[data]
    assert config.data.batch_size // 8 == 128 and config.data.batch_size // config.rl.minibatches // 8 == 4
    assert (algorithm.kl, algorithm.kl_in, algorithm.kl_coefficient) == ("k3", "loss", 0.001)
    assert (algorithm.advantage, algorithm.whitened_mean, algorithm.statistics_parts) == ("reinforce++", "removed", 1)
    assert (algorithm.clip_low, algorithm.clip_high, algorithm.gamma) == (0.2, 0.2, 1.0)
    assert (config.optimizer.b1, config.optimizer.b2, config.optimizer.eps) == (0.9, 0.95, 1e-5)
    assert dict(config.optimizer.rules)[".*"] == 5e-6 and config.train.accumulate == 1
    assert [reward["name"] for reward in config.rl.rewards] == ["math", "language"]
    assert not config.rl.penalty_truncated and not config.rl.text_positions
    assert config.model.vision.name.lower().endswith(f"{model}-instruct")


def test_what_the_variants_change():
    paper, script, parity = (pj.config(f"maye/mm_math5k.py:{name}") for name in ("paper", "script", "parity"))
    assert algorithm_of(paper.rl).aggregation == "sequence_mean"
    assert algorithm_of(pj.config("maye/mm_math5k.py").rl).aggregation == "token_mean"
    assert script.train.accumulate == 2 and script.rl.penalty_truncated
    assert [reward["name"] for reward in script.rl.rewards] == ["math", "language", "format"]
    assert algorithm_of(script.rl).whitened_mean == "removed"
    assert parity.data.batch_size == 7 * 128 and parity.rl.text_positions
    assert (parity.optimizer.master_dtype, paper.optimizer.master_dtype) == ("bfloat16", "float32")
    assert algorithm_of(parity.rl).whitened_mean == "kept"


def test_other_arms():
    sft, strong = pj.config("maye/sft.py"), pj.config("maye/strong.py:qwen2.5-vl-3b")
    assert (sft.objective.name, sft.data.batch_size, dict(sft.optimizer.rules)[".*"]) == ("sft", 16, 1e-5)
    assert sft.data.sources[0]["answer_key"] == "solution"
    algorithm = algorithm_of(strong.rl)
    assert (strong.rl.responses, algorithm.filter, algorithm.clip_high) == (8, "mean_inside", 0.28)
    assert algorithm.kl_coefficient == 0 and strong.rl.filter_reward == "math"


def test_sft_on_the_models_own_right_responses():
    rejection = pj.config("maye/sft.py:qwen2-vl-7b,rejection")
    assert rejection.data.sources[0]["responses"].endswith("right.jsonl")
    assert rejection.model.vision.name == "Qwen/Qwen2-VL-7B-Instruct" and rejection.name == "maye_sft_rejection"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_argument_loads_and_its_rows_can_be_split_over_its_hardware(recipe, monkeypatch):
    monkeypatch.setattr(topology, "_installed", lambda module: False)  # nothing is compiled
    for word in words(recipe):
        for model in MODELS if of_qwen(recipe) else ("",):
            config = pj.config(f"maye/{recipe}:{','.join(filter(None, (model, word)))}")
            assert bool(config.hardware) == of_qwen(recipe)
            for name in config.hardware:
                devices = topology.find(name).count
                assert rows_of_step(config) % (config.train.accumulate * devices) == 0, (word, name)


def test_words_that_exclude_each_other():
    for name in ("sft", "strong"):
        with pytest.raises(UserError, match="unknown word 'paper'"):
            pj.config(f"maye/{name}.py:paper")
    with pytest.raises(UserError, match="qwen2-vl-2b and qwen2-vl-7b exclude each other"):
        pj.config("maye/strong.py:qwen2-vl-7b,qwen2-vl-2b")
    with pytest.raises(UserError, match="paper and script exclude each other"):
        pj.config("maye/mm_math5k.py:paper,script")
    with pytest.raises(UserError, match=r"unknown word 'qwen2-vl-72b'"):
        pj.config("maye/mm_math5k.py:qwen2-vl-72b")
