"""Policy updates of online RL on groups of sampled responses (step IV).

A prompt and its responses are one row: image and prompt once, response i as branch i + 1.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pivot_jax.kernels.token_logprobs import Distribution
from pivot_jax.models import value_head
from pivot_jax.models.logprobs import score_states, target_states
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives.advantages import ADVANTAGES
from pivot_jax.objectives.algorithm import Algorithm
from pivot_jax.objectives.base import Objective, Term, weighted
from pivot_jax.objectives.divergences import CLAMP, token_kl
from pivot_jax.objectives.perception import divergence, needs_masked_view
from pivot_jax.objectives.policy_losses import AGGREGATIONS, CLIPS, RATIOS, off_policy_mask, value_loss
from pivot_jax.objectives.presets import algorithm_of
from pivot_jax.objectives.responses import Responses, ResponseStats, response_stats


def sampled_from(section: Any, banned_ids: tuple[int, ...] = ()) -> Distribution:
    """The distribution that responses are sampled from, before top-p and top-k; log-probs of greedy ones are at 1."""
    return Distribution(section.temperature or 1.0, banned_ids)


def build_policy(mllm: MLLM, section: Any, banned_ids: tuple[int, ...] = ()) -> Objective:
    """Objective of ``config.rl``; metrics as TRL's GRPOTrainer names them.

    A batch stores ``advantages``, and where the algorithm reads them ``old_logps`` (else it is on policy),
    ``ref_logps``, ``importance``, ``sampling_logps``, ``masked_logps``, ``old_values`` and ``returns``.

    Args:
      banned_ids: tokens that are never sampled; the policy gives them probability 0 too.

    Raises:
      UserError: an unknown algorithm or part, or settings that exclude each other.
    """
    algorithm, limit = algorithm_of(section), section.max_tokens

    def totals(batch: Any) -> dict[str, Any]:
        return policy_totals(algorithm, Responses(batch, section.responses), limit)

    def loss(params, batch, totals, memory, reference):
        return policy_loss(algorithm, policy_stats(mllm, section, banned_ids, params, batch), limit, totals)

    needs_reference = algorithm.kl_coefficient > 0
    return Objective("policy", totals, loss, reference="stored" if needs_reference else None)


def policy_stats(mllm: MLLM, section: Any, banned_ids: tuple[int, ...], params: Any, batch: Any) -> ResponseStats:
    """Statistics of a batch under ``params``, of which its loss is computed; other arguments as of ``build_policy``."""
    algorithm = algorithm_of(section)
    states = target_states(mllm, params, batch)
    entropy_gradient = bool(algorithm.entropy_coefficient)
    distribution = sampled_from(section, banned_ids)
    scores = score_states(params, states, batch, distribution, entropy_gradient=entropy_gradient)
    values = value_head.values(params, states) if ADVANTAGES[algorithm.advantage].values else None
    return response_stats(batch, section.responses, scores.logps, scores.entropy, values)


def stored_values(section: Any) -> tuple[str, ...]:
    """Fields of a batch that the update of ``config.rl`` stores for each target, or needs on the way to one of them.

    Log-probs of the policy are computed again where something reads them: several optimizer steps on one rollout, a
    correction of the sampler's, a KL reward, or weights of tokens; and where the pass is made anyway, for the values of
    a value head. Otherwise the step takes its own, and every ratio is exactly 1.
    """
    algorithm = algorithm_of(section)
    corrects = algorithm.importance != "none"
    masked, valued = needs_masked_view(algorithm), ADVANTAGES[algorithm.advantage].values
    again = valued or section.epochs * section.minibatches > 1 or corrects or algorithm.token_weights != "none"
    again |= algorithm.kl_in == "reward" and algorithm.kl_coefficient > 0
    reads = {
        "advantages": True,
        "old_logps": again,
        "sampling_logps": again,
        "ref_logps": algorithm.kl_coefficient > 0,
        "masked_logps": masked,
        "importance": corrects,
        "old_values": valued,
        "returns": valued,
    }
    return tuple(name for name, is_read in reads.items() if is_read)


def policy_totals(algorithm: Algorithm, responses: Responses, max_tokens: int) -> dict[str, Any]:
    """Denominators of the whole batch: of the policy loss, of means over tokens, and of the value loss."""
    totals = {
        "policy": AGGREGATIONS[algorithm.aggregation](responses, max_tokens)[1],
        "tokens": jnp.sum(responses.mask),
    }
    if ADVANTAGES[algorithm.advantage].values:
        totals["values"] = jnp.sum(_need(responses.valued, "returns"))
    return totals


def policy_loss(
    algorithm: Algorithm, stats: ResponseStats, max_tokens: int, totals: dict[str, Any]
) -> tuple[Any, dict[str, Term]]:
    """A micro-batch's share of the loss, and its metrics.

    loss = Σ w (clipped loss * OPSM mask * importance + β KL - γ KL_masked) / W - c Σ H / tokens + c_v Σ L_v / tokens;
    (w, W) are the aggregation's, L_v is the value loss of the tokens with a return (PPO).

    Raises:
      ValueError: the batch lacks an array that the algorithm reads.
    """
    weights, weight = AGGREGATIONS[algorithm.aggregation](stats, max_tokens)
    losses, clipped = token_losses(algorithm, stats)
    total = jnp.sum(losses * weights)
    metrics = {}
    if algorithm.kl_coefficient and algorithm.kl_in == "loss":
        kl = token_kl(algorithm, stats.logps, _need(stats.ref_logps, "ref_logps"), RATIOS[algorithm.ratio](stats))
        metrics["kl"] = weighted(kl, stats.mask)
        kl_sum = jnp.sum(kl * weights)
        if algorithm.kl_clamp == "mean":
            safe = jnp.maximum(weight, 1e-20)
            kl_sum = jnp.clip(kl_sum / safe, -CLAMP, CLAMP) * safe
        total += algorithm.kl_coefficient * kl_sum
    if algorithm.perception_coefficient:
        seen = divergence(stats.logps, _need(stats.masked_logps, "masked_logps"))
        metrics["perception_kl"] = weighted(seen, stats.mask)
        total -= algorithm.perception_coefficient * jnp.sum(seen * weights)
    share = total / jnp.maximum(totals["policy"], 1e-20)
    if algorithm.entropy_coefficient:
        bonus = jnp.sum(stats.entropy * stats.mask) / jnp.maximum(totals["tokens"], 1.0)
        share -= algorithm.entropy_coefficient * bonus
    if ADVANTAGES[algorithm.advantage].values:
        losses, found = _value_losses(algorithm, stats)
        share += algorithm.value_coefficient * jnp.sum(losses) / jnp.maximum(totals["values"], 1.0)
        metrics |= found
    metrics["policy_loss"] = Term(total, weight)
    return share, metrics | _metrics(algorithm, stats, clipped)


def token_losses(algorithm: Algorithm, stats: ResponseStats) -> tuple[Any, dict[str, Any]]:
    """The clipped loss of each token with its corrections, and the clip form's metrics: float32 [b, t] each.

    Raises as :func:`policy_loss`.
    """
    clip = CLIPS[algorithm.clip]
    losses, clipped = clip.function(stats, algorithm)
    if algorithm.off_policy_threshold:
        losses = losses * off_policy_mask(stats, algorithm.off_policy_threshold)
    if algorithm.importance != "none" and not clip.corrects:
        losses = losses * _need(stats.importance, "importance")
    return losses, clipped


def _value_losses(algorithm: Algorithm, stats: ResponseStats) -> tuple[Any, dict[str, Term]]:
    """Value loss of each token, 0 where it has no return, [b, t]; and its metrics.

    ``value/clip_ratio`` is the share of tokens whose clipped value has the larger loss (verl's ``vf_clipfrac``).
    """
    values, old, returns = (_need(getattr(stats, name), name) for name in ("values", "old_values", "returns"))
    losses, free = (value_loss(values, old, returns, clip) for clip in (algorithm.value_clip, 0.0))
    return losses * stats.valued, {
        "value/loss": weighted(losses, stats.valued),
        "value/clip_ratio": weighted((losses > free).astype(jnp.float32), stats.valued),
        "value/mean": weighted(values, stats.valued),
    }


def _metrics(algorithm: Algorithm, stats: ResponseStats, clipped: dict[str, Any]) -> dict[str, Term]:
    # Where a ratio is one of the whole response, it counts once, not once a token.
    whole = algorithm.clip == "vespo" or (algorithm.ratio.startswith("sequence") and algorithm.clip != "gmpo")
    counted = stats.shares if whole else stats.mask
    metrics = {name: weighted(values, counted) for name, values in clipped.items()}
    metrics["entropy"] = weighted(stats.entropy, stats.mask)
    metrics["approx_kl"] = weighted(0.5 * stats.deltas**2, stats.mask)
    metrics["ppo_kl"] = weighted(-stats.deltas, stats.mask)  # k1 of the same divergence: verl's estimate
    if stats.ref_logps is not None and "kl" not in metrics and algorithm.kl_in == "reward":
        metrics["kl"] = weighted(stats.logps - stats.ref_logps, stats.mask)
    return metrics


def _need(values: Any, name: str) -> Any:
    if values is None:
        raise ValueError(f"batch.{name}: None, but the algorithm reads it")
    return values
