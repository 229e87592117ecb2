"""Online RL runs that end before the last step, by a signal or a kill, and how they resume."""

from __future__ import annotations

import os
import random
import signal

import pytest

from pivot_jax import config as configs
from pivot_jax.errors import UserError
from pivot_jax.rl import loop
from pivot_jax.rl.run import run
from pivot_jax.train.checkpoint import newest
from pivot_jax.train.signals import Interrupted
from tests.rl.conftest import completions
from tests.tiny.kills import run_with_kills, same_bits, trace


def test_a_signal_stops_a_rollout_at_once(rl_config, tmp_path, monkeypatch):
    """The third rollout begins again after it; its prompts are the same, and so is everything that follows."""
    config = rl_config()
    run(config, tmp_path / "whole")
    collect, calls = loop.collect_responses, []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return collect(*arguments)

    monkeypatch.setattr(loop, "collect_responses", stopped)
    with pytest.raises(Interrupted) as stop:
        run(config, tmp_path / "stopped")
    assert stop.value.step == 2 and len(completions(tmp_path / "stopped")) == 2
    monkeypatch.setattr(loop, "collect_responses", collect)
    assert run(config, tmp_path / "stopped").step == 4
    assert trace(tmp_path / "stopped") == trace(tmp_path / "whole")
    assert completions(tmp_path / "stopped") == completions(tmp_path / "whole")
    same_bits(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.heavy
def test_an_error_in_a_rollout_loses_no_step(rl_config, tmp_path, monkeypatch):
    """Such as a vLLM server that is gone: no checkpoint was due, and the run resumes at the rollout that failed."""
    config = rl_config()
    assert config.train.checkpoint_every > 2
    run(config, tmp_path / "whole")
    collect, calls = loop.collect_responses, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise UserError("the server is gone")
        return collect(*arguments)

    monkeypatch.setattr(loop, "collect_responses", failing)
    with pytest.raises(UserError, match="the server is gone"):
        run(config, tmp_path / "failed")
    assert newest(tmp_path / "failed") == 2
    monkeypatch.setattr(loop, "collect_responses", collect)
    assert run(config, tmp_path / "failed").step == 4
    assert trace(tmp_path / "failed") == trace(tmp_path / "whole")
    same_bits(tmp_path / "failed", tmp_path / "whole")


@pytest.mark.heavy
@pytest.mark.parametrize("kills", [1, 10])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(rl_config, tmp_path, kills):
    """SIGKILL inside rollout, reward, update or save; with a filter, minibatches and a reference model."""
    draw = random.Random(3)
    config = rl_config(
        rl__algorithm="dapo", rl__filter="varied", rl__minibatches=2, rl__kl_coefficient=0.01,
        train__steps=24, train__checkpoint_every=3,
    )  # fmt: skip
    file = tmp_path / "config.json"
    file.write_text(configs.to_json(config))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(config, whole)
    run_with_kills(file, stopped, draw.choices(range(1, 20), k=kills), draw, 0.3)
    same_bits(whole, stopped)
    assert trace(stopped) == trace(whole)
    assert completions(stopped) == completions(whole)
