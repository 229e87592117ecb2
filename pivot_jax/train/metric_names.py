"""Names of online RL's metrics as verl logs them (``rl.metric_names``); everything in here has TRL's.

Only log lines are renamed: checkpoints and ``result.json`` have TRL's names, ``metrics.read`` gives them for either
file, and ``train.best_metric`` takes both. Definitions stay ours. They are those of verl 0.9 but for these:

* ``actor/pg_loss`` contains the KL term of the loss, which verl adds after it is logged.
* ``critic/rewards/*`` is the reward before a KL penalty in it (verl's ``critic/score/*``; the same without one).
* ``response_length/clip_ratio`` counts responses without an end token; verl's counts those of the largest length.
* ``actor/kl_loss`` is also the name where the KL is in the reward (verl: ``actor/reward_kl_penalty``).
* ``perf/time_per_step`` is of an optimizer step; verl's step is a rollout with all its updates.
* ``timing_s/old_log_prob`` is the time of all log-probs before the update, the reference's among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERL = {
    "policy_loss": "actor/pg_loss",
    "ppo_kl": "actor/ppo_kl",
    "clip_ratio/region_mean": "actor/pg_clipfrac",
    "clip_ratio/cap_mean": "actor/pg_clipfrac_lower",
    "entropy": "actor/entropy",
    "kl": "actor/kl_loss",
    "grad_norm": "actor/grad_norm",
    "learning_rate": "actor/lr",
    "reward": "critic/rewards/mean",
    "completions/mean_length": "response_length/mean",
    "completions/max_length": "response_length/max",
    "completions/min_length": "response_length/min",
    "completions/clipped_ratio": "response_length/clip_ratio",
    "sampling/importance_sampling_ratio/mean": "rollout_corr/rollout_is_mean",
    "sampling/importance_sampling_ratio/max": "rollout_corr/rollout_is_max",
    "sampling/importance_sampling_ratio/min": "rollout_corr/rollout_is_min",
    "perf/rollout_s": "timing_s/gen",
    "perf/reward_s": "timing_s/reward",
    "perf/logprobs_s": "timing_s/old_log_prob",
    "perf/step_time_s": "perf/time_per_step",
    "perf/peak_mem_gib": "perf/max_memory_allocated_gb",
    "epoch": "training/epoch",
}
_TRL = {theirs: ours for ours, theirs in VERL.items()}
NAMES: dict[str, Mapping[str, str]] = {"trl": {}, "verl": VERL}


def renamed(metrics: Mapping[str, Any], names: str) -> dict[str, Any]:
    """Metrics under TRL's names as ``names`` ("trl", "verl") calls them. One without a counterpart keeps its name."""
    table = NAMES[names]
    return {table.get(name, name): value for name, value in metrics.items()}


def original(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of either vocabulary under TRL's names."""
    return {_TRL.get(name, name): value for name, value in metrics.items()}


def original_name(name: str) -> str:
    """TRL's name of a metric of either vocabulary; a "-" before it stays."""
    sign = "-" if name.startswith("-") else ""
    bare = name.removeprefix("-")
    return sign + _TRL.get(bare, bare)
