"""rl.metric_names: verl's names in the log files, and nothing else changes."""

from __future__ import annotations

import json

import pytest

from pivot_jax import config as configs
from pivot_jax.rl.run import run
from tests.rl.conftest import completions
from tests.tiny.events import read as events
from tests.tiny.kills import same_bits, trace

NAMES = {
    "actor/pg_loss", "actor/ppo_kl", "actor/entropy", "actor/grad_norm", "actor/lr", "actor/pg_clipfrac",
    "critic/rewards/mean", "response_length/mean", "response_length/max", "response_length/clip_ratio",
    "timing_s/gen", "timing_s/reward", "timing_s/old_log_prob", "perf/time_per_step", "training/epoch",
}  # fmt: skip
OURS = {"policy_loss", "ppo_kl", "entropy", "grad_norm", "reward", "completions/mean_length", "perf/rollout_s"}
KEPT = {"rewards/count/mean", "reward_std", "frac_reward_zero_std", "approx_kl", "perf/tokens_per_s", "num_tokens"}


@pytest.mark.heavy
def test_verls_names_change_the_log_and_nothing_else(rl_config, tmp_path):
    """Also resumed with the other setting, and with the best checkpoint chosen by one of verl's names."""
    verl = {"rl__metric_names": "verl", "train__best_metric": "critic/rewards/mean"}
    plain, renamed = rl_config(train__best_metric="reward"), rl_config(**verl)
    assert configs.fingerprint(plain) == configs.fingerprint(renamed)
    run(plain, tmp_path / "trl")
    result = run(renamed, tmp_path / "verl")
    assert result.step == 4 and result.metrics["reward"] >= 0
    assert trace(tmp_path / "verl") == trace(tmp_path / "trl")
    assert completions(tmp_path / "verl") == completions(tmp_path / "trl")
    same_bits(tmp_path / "verl", tmp_path / "trl")
    for name, there, absent in (("verl", NAMES | KEPT, OURS), ("trl", OURS | KEPT, NAMES)):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert len(lines) == 4
        tags = {value.tag for event in events(tmp_path / name / "tensorboard") for value in event.summary.value}
        for line in lines:
            assert there <= set(line) and not absent & set(line)
        assert there <= tags and not absent & tags
    assert run(rl_config(rl__metric_names="trl"), tmp_path / "verl").step == 4  # finished; not another config


def test_ppo_kl_is_the_mean_log_ratio(rl_config, tmp_path):
    """0 at the first step of a rollout; at the second of the size that the mean square, approx_kl, allows."""
    run(rl_config(rl__epochs=2), tmp_path / "run")
    first, second, *_ = trace(tmp_path / "run")
    assert first["ppo_kl"] == pytest.approx(0, abs=1e-6)
    assert second["ppo_kl"] != 0 and abs(second["ppo_kl"]) <= (2 * second["approx_kl"]) ** 0.5
