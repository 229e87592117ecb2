"""Online RL algorithms by name, and a run's algorithm from ``config.rl``.

Where libraries call different things by one name, the name carries the library's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pivot_jax.errors import UserError, suggest
from pivot_jax.objectives.advantages import ADVANTAGES
from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.divergences import KL
from pivot_jax.objectives.filters import FILTERS
from pivot_jax.objectives.importance import MODES
from pivot_jax.objectives.perception import TOKEN_WEIGHTS, needs_masked_view
from pivot_jax.objectives.policy_losses import AGGREGATIONS, CLIPS, RATIOS

# What differs from the defaults of Algorithm: token ratio, PPO's clip at 0.2, global token mean, no KL, no correction.
_TRL = {"importance": "sequence_mask", "importance_high": 3.0}
PRESETS: dict[str, dict[str, Any]] = {
    # MAYE as released: whitened return-to-go with the mean added back, token means of micro-batches, k3 in the loss,
    # clamped after the mean. Its statistics are those of one rank: statistics_parts is its number of ranks.
    "maye": {
        "advantage": "reinforce++",
        "whitened_mean": "kept",
        "aggregation": "microbatch_token_mean",
        "kl_coefficient": 0.001,
        "kl_clamp": "mean",
    },
    # OpenRLHF: k1 in the reward of each token
    "reinforce++": {
        "advantage": "reinforce++",
        "kl": "k1",
        "kl_in": "reward",
        "kl_coefficient": 0.01,
        "kl_clamp": "token",
    },
    "reinforce++-baseline": {"advantage": "reinforce++-baseline"},
    # TRL's RLOOTrainer: the response is one action, k1 summed over it in the reward
    "rloo": {
        "advantage": "rloo",
        "ratio": "sequence_product",
        "aggregation": "sequence_mean",
        "kl": "k1",
        "kl_in": "reward",
        "kl_coefficient": 0.05,
    },
    "trl-grpo": {**_TRL, "kl": "k3_corrected"},
    "verl-grpo": {"std_eps": 1e-6, "singleton": "raw", "clip": "dual", "kl_clamp": "token"},
    "dr-grpo": {"advantage": "dr_grpo", "aggregation": "constant"},
    # clip-higher, dynamic sampling, token mean; its overlong penalty is a reward
    "dapo": {"std_eps": 1e-6, "clip_high": 0.28, "filter": "mean_inside"},
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "aggregation": "sequence_mean"},
    "gspo-token": {"ratio": "sequence_token", "clip_low": 3e-4, "clip_high": 4e-4, "aggregation": "sequence_mean"},
    "cispo-trl": {**_TRL, "clip": "cispo-trl", "clip_high": 5.0},
    "cispo-verl": {"std_eps": 1e-6, "clip": "cispo-verl"},
    "sapo": {"clip": "sapo", "aggregation": "sequence_mean"},
    "gmpo": {"clip": "gmpo", "clip_low": 0.4, "clip_high": 0.4, "aggregation": "sequence_mean"},
    "opo": {"advantage": "opo"},
    # PPO with a value head on the policy's own trunk: token ratio, clip 0.2, GAE with γ 1 and λ 0.95, no KL. verl's
    # clip of the values, and the weight of the value loss that TRL's PPOTrainer had.
    "ppo": {"advantage": "gae", "gae_lambda": 0.95, "value_coefficient": 0.1, "value_clip": 0.5},
    "vespo": {**_TRL, "clip": "vespo"},
}
_NAMES: dict[str, Any] = {
    "advantage": ADVANTAGES,
    "ratio": RATIOS,
    "clip": CLIPS,
    "aggregation": AGGREGATIONS,
    "kl": KL,
    "importance": MODES,
    "filter": FILTERS,
    "token_weights": TOKEN_WEIGHTS,
}
_UNSET: tuple[Any, ...] = ("", -1, ())  # "the preset's value", by the type of the key


def algorithm_of(section: Any) -> Algorithm:
    """The algorithm of ``config.rl``: its preset, with every part that the config sets in place of the preset's.

    Raises:
      UserError: an unknown preset or part, a setting that no part reads, or one response to a prompt with an advantage
        that compares responses.
    """
    preset = _known("algorithm", section.algorithm, PRESETS)
    own = {name: section[name] for name in _FIELDS if section[name] not in _UNSET}
    for name, known in _NAMES.items():
        if name in own:
            _known(name, own[name], known)
    algorithm = Algorithm(**{**PRESETS[preset], **own})
    readers = _readers(algorithm)
    for name, value in own.items():
        if name in readers and not readers[name][0]:
            raise UserError(
                f"rl.{name}: {value!r}, but with {readers[name][1]} nothing reads it; remove it, or set another "
                f"{readers[name][1].split('=')[0]}"
            )
    _check(algorithm, section)
    return algorithm


_FIELDS = tuple(field.name for field in fields(Algorithm))


def _known(key: str, name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    if name not in known:
        variants = [one for one in known if name in one.split("-")]  # grpo: those of the libraries
        near = f"; did you mean {' or '.join(map(repr, variants))}?" if variants else suggest(name, known)
        raise UserError(f"rl.{key}: {name!r} is not allowed (allowed: {', '.join(known)}){near}")
    return name


def _readers(algorithm: Algorithm) -> dict[str, tuple[bool, str]]:
    """Setting → (whether a part reads it, the setting that decides so)."""
    reads = CLIPS[algorithm.clip].reads
    clip, advantage = f"rl.clip={algorithm.clip!r}", f"rl.advantage={algorithm.advantage!r}"
    corrected = (algorithm.importance != "none", f"rl.importance={algorithm.importance!r}")
    filtered = (algorithm.filter == "mean_inside", f"rl.filter={algorithm.filter!r}")
    whitened = (algorithm.advantage in ("reinforce++", "reinforce++-baseline", "gae"), advantage)
    valued = ADVANTAGES[algorithm.advantage].values
    diverges = (algorithm.kl_coefficient > 0, f"rl.kl_coefficient={algorithm.kl_coefficient!r}")
    of_clip = ("ratio", "clip_low", "clip_high", "clip_cap", "sapo_temperatures", "vespo_shape")
    return {
        **{name: (name in reads, clip) for name in of_clip},
        "std_eps": (algorithm.advantage in ("grpo", "batch_std", "gdpo", "pass_at_k"), advantage),
        "gamma": (algorithm.advantage in ("reinforce++", "gae"), advantage),
        **{name: (valued, advantage) for name in ("gae_lambda", "value_coefficient", "value_clip")},
        "whitened_mean": whitened,
        "statistics_parts": whitened,
        "kl": diverges,
        "kl_in": diverges,
        "kl_clamp": diverges,
        "importance_low": corrected,
        "importance_high": corrected,
        "masked_share": (needs_masked_view(algorithm), f"rl.token_weights={algorithm.token_weights!r}"),
        **{f"noise_{name}": (algorithm.noise_share > 0, "rl.noise_share=0.0") for name in ("start", "rate", "middle")},
        "filter_low": filtered,
        "filter_high": filtered,
    }


def _check(algorithm: Algorithm, section: Any) -> None:
    if needed := ADVANTAGES[algorithm.advantage].needs:
        raise UserError(
            f"rl.advantage: {algorithm.advantage!r} needs {needed}, which training does not provide yet; choose another"
        )
    if section.responses == 1 and ADVANTAGES[algorithm.advantage].grouped:
        raise UserError(
            f"rl.responses: 1, but rl.advantage={algorithm.advantage!r} compares the responses to one prompt; set "
            "rl.responses to 2 or more, or rl.advantage='reinforce++'"
        )
    if algorithm.clip == "dual" and algorithm.clip_cap <= 1 + algorithm.clip_high:
        raise UserError(
            f"rl.clip_cap: {algorithm.clip_cap} is not above 1 + rl.clip_high={algorithm.clip_high}; set it above"
        )
    if algorithm.kl_in == "reward" and algorithm.kl_coefficient and algorithm.advantage == "gdpo":
        raise UserError(
            "rl.kl_in: 'reward', but rl.advantage='gdpo' normalises each reward function alone; set rl.kl_in='loss'"
        )
    if algorithm.kl_in == "reward" and algorithm.kl_clamp == "mean":
        raise UserError("rl.kl_clamp: 'mean' is of a KL term in the loss; with rl.kl_in='reward' set 'token' or 'none'")
    if algorithm.importance_low > algorithm.importance_high:
        raise UserError(
            f"rl.importance_low: {algorithm.importance_low} is above rl.importance_high={algorithm.importance_high}"
        )
