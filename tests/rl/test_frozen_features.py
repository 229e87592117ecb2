"""A frozen encoder's features: computed once per image and rollout, with the numbers of encoding in every pass."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax import rules
from pivot_jax.rl import images, parts
from pivot_jax.rl.run import run
from pivot_jax.train import checkpoint
from pivot_jax.train.signals import Interrupted
from tests.rl.conftest import completions
from tests.tiny.kills import same_bits, trace
from tests.train.conftest import QWEN, stop_at

FROZEN = dict(optimizer__rules=(("vision/.*", "frozen"), (".*", 1e-3)))
# Three passes of the policy, one of the reference, one over masked images.
ALL = FROZEN | dict(rl__epochs=2, rl__minibatches=2, rl__kl_coefficient=0.05, rl__perception_coefficient=0.01)


@pytest.fixture
def encoded(monkeypatch):
    """How many rows each call of ``Features.encode`` adds."""
    encode, rows = images.Features.encode, []

    def counted(self, some):
        before = set(self._found)
        encode(self, some)
        rows.append(len(set(self._found) - before))

    monkeypatch.setattr(images.Features, "encode", counted)
    return rows


@pytest.mark.parametrize("encoder", [{}, QWEN], ids=["square", "patches"])
@pytest.mark.heavy_after(1)
def test_each_image_is_encoded_once_with_the_same_numbers(rl_config, tmp_path, monkeypatch, encoded, encoder):
    config = rl_config(train__steps=8, **ALL, **encoder)
    run(config, tmp_path / "kept")
    assert sum(encoded) == 2 * (4 + 4)  # two rollouts of four prompts, and their masked images
    monkeypatch.setattr(parts, "_features", lambda setup, images: None)
    run(config, tmp_path / "encoded")
    assert completions(tmp_path / "kept").keys() == completions(tmp_path / "encoded").keys()
    for ours, theirs in zip(trace(tmp_path / "kept"), trace(tmp_path / "encoded"), strict=True):
        np.testing.assert_allclose([ours[key] for key in theirs], list(theirs.values()), rtol=1e-4, atol=1e-5)
    ends = [rules.flatten(checkpoint.load_run(tmp_path / name)) for name in ("kept", "encoded")]
    for path, leaf in ends[0].items():
        if not path.endswith("attn/k/bias"):  # its gradient is 0 but for rounding
            np.testing.assert_allclose(leaf, ends[1][path], atol=1e-4, err_msg=path)


@pytest.mark.heavy
def test_rounds_of_prompts_that_a_filter_asks_for_are_encoded_once_too(rl_config, tmp_path, encoded):
    drops = dict(rl__algorithm="dapo", rl__filter="varied", rl__responses=2, rl__max_tokens=3)
    run(rl_config(train__steps=1, **drops, **FROZEN), tmp_path / "run")
    rounds = trace(tmp_path / "run")[0]["sampling/rounds"]
    assert rounds > 1 and sum(encoded) == 4 * rounds


@pytest.mark.heavy
def test_a_run_stopped_inside_an_update_resumes_with_the_same_bits(rl_config, tmp_path):
    config = rl_config(train__steps=8, eval__every=1, **ALL)
    run(config, tmp_path / "whole", [stop_at()])
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stopped", [stop_at(2)])
    assert run(config, tmp_path / "stopped", [stop_at()]).step == 8
    assert trace(tmp_path / "stopped") == trace(tmp_path / "whole")
    same_bits(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize(
    "changes", [{}, dict(optimizer__rules=(("decoder/.*", "frozen"), (".*", 1e-3)))], ids=["all", "encoder"]
)
@pytest.mark.heavy_after(1)
def test_a_trained_encoder_is_encoded_with_its_own_weights(rl_config, tmp_path, monkeypatch, changes):
    made = []
    monkeypatch.setattr(parts, "_features", lambda *a, f=parts._features: made.append(f(*a)) or made[-1])
    run(rl_config(train__steps=1, **changes), tmp_path / "run")
    assert made == [None]
