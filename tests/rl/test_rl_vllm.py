"""GRPO over a real vLLM server, with images and the real tokenizer of Qwen2.5-VL: `make test-vllm`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax import hub
from pivot_jax.errors import UserError
from pivot_jax.rl import loop
from pivot_jax.rl.collection import asked_prompts
from pivot_jax.rl.run import run
from pivot_jax.rollout.sampler import Sampler, Shape
from pivot_jax.train import hub_export
from pivot_jax.train.metrics import read
from pivot_jax.train.setup import build_setup, starting_params
from tests.rl.conftest import completions
from tests.tiny import vllm_servers
from tests.tiny.kills import same_bits, trace

pytestmark = pytest.mark.vllm
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config(shared_data, tmp_path_factory):
    """The trial's GRPO on geometry3k, in sizes that vLLM takes: heads of 32, a head of its own, short prompts."""
    vllm_servers.require()
    assert shared_data.is_dir()
    letters = tmp_path_factory.mktemp("rewards") / "letters.py"
    letters.write_text("def count(prompts, completions, **columns):\n    return [c.count('e') for c in completions]\n")
    return configs.load(
        f"{ROOT}/configs/trial/grpo.py",
        {
            "model.decoder.tied": False,
            "model.decoder.heads": 2,
            "model.decoder.kv_heads": 1,
            "model.decoder.mrope_section": (4, 6, 6),
            "data.image.max_patches": 128,
            "rl.engine": "vllm",
            "rl.vllm.patience_s": 8.0,
            "rl.max_tokens": 16,
            "rl.importance": "token_truncate",  # compares the log-probs of server and trainer
            "rl.rewards": ({"name": f"{letters}:count"},),
            "optimizer.rules": ((".*", 1e-2),),
            "optimizer.warmup_ratio": 0.0,  # else the first step has a learning rate of 0
            "train.steps": 3,
        },
    )


@pytest.fixture(scope="module")
def server(config, tmp_path_factory):
    """A server with the run's starting weights."""
    folder = tmp_path_factory.mktemp("served")
    setup = build_setup(config, folder / "setup")
    with jax.set_mesh(setup.mesh):
        params = starting_params(setup)
    tokenizer = setup.loader.processor.chat.tokenizer
    hub_export.write(config, params, tokenizer, folder / "model", hub.ExportOptions(config.model.dtype))
    found = vllm_servers.Running(folder / "model", folder / "log.txt", "--max-model-len", "512")
    try:
        yield found.wait()
    finally:
        found.kill()


def test_the_server_answers_with_the_weights_of_each_update(config, server, tmp_path, monkeypatch):
    """Three steps. Greedy answers as the embedded sampler gives with the same weights, other ones than before."""
    config = configs.from_json(configs.to_json(config))
    config.rl.vllm.urls = (server.url,)
    collect, before, changed = loop.collect_responses, [], []

    def checked(parts, params, version, prompts, number, done):
        found = collect(parts, params, version, prompts, number, done)
        assert found.version == version
        sampling = dataclasses.replace(parts.sampling, temperature=0.0)
        theirs = _tokens(parts.engine.generate(asked_prompts(prompts), 1, sampling, (0, number)))
        own = Sampler(parts.setup.model.module, parts.processor, Shape(slots=4))
        try:
            own.update(params, version)
            assert theirs == _tokens(own.generate(asked_prompts(prompts), 1, sampling, (0, number)))
            if before:
                own.update(before.pop(), version - 1)
                changed.append(theirs != _tokens(own.generate(asked_prompts(prompts), 1, sampling, (0, number))))
        finally:
            own.close()
        before.append(jax.tree.map(lambda x: x.copy(), params))  # the update donates them
        return found

    monkeypatch.setattr(loop, "collect_responses", checked)
    assert run(config, tmp_path / "run").step == 3
    assert changed == [True, True]
    gaps = [line["sampling/sampling_logp_difference/max"] for line in read(tmp_path / "run" / "metrics.jsonl")]
    print(f"log-probs of server and trainer differ by at most {', '.join(f'{gap:.1e}' for gap in gaps)}")
    assert len(gaps) == 3 and max(gaps) < 2e-4


def _tokens(rollouts):
    return [response.tokens.tolist() for own in rollouts.responses for response in own]


def test_a_server_that_dies_in_a_rollout(config, server, tmp_path, monkeypatch):
    """The error names it; once it is back, the same command resumes, with the tokens of a run that nothing stopped."""
    config = configs.from_json(configs.to_json(config))
    config.rl.vllm.urls = (server.url,)
    run(config, tmp_path / "whole")
    collect, calls = loop.collect_responses, []

    def dying(parts, params, version, prompts, number, done):
        calls.append(number)

        def kill(count):
            if len(calls) == 2:
                server.kill()
            done(count)

        return collect(parts, params, version, prompts, number, kill)

    monkeypatch.setattr(loop, "collect_responses", dying)
    with pytest.raises(UserError, match=rf"vLLM server {server.url} does not answer .*start it again .*resumes"):
        run(config, tmp_path / "stopped")
    monkeypatch.setattr(loop, "collect_responses", collect)
    server.start()
    server.wait()
    assert run(config, tmp_path / "stopped").step == 3
    assert completions(tmp_path / "stopped") == completions(tmp_path / "whole")
    for ours, theirs in zip(trace(tmp_path / "stopped"), trace(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal([ours[key] for key in theirs], list(theirs.values()))
    same_bits(tmp_path / "stopped", tmp_path / "whole")
