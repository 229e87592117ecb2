"""Preference training on pairs that share image and prompt (stage 2).

A pair is one row: image and prompt once, both answers side by side as branches 1 and 2. A sequence holds k rows.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.kernels.token_logprobs import TokenStats
from pivot_jax.models.logprobs import answer_logps, score
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives import preference_losses, sft
from pivot_jax.objectives.base import Objective, Term, weighted

_ROUNDING = 1e-6  # relative; sums of a few thousand float32 log-probs agree to this


def build(mllm: MLLM, section: Any) -> Objective:
    """Objective of ``config.objective``; metrics as TRL's DPOTrainer names them.

    The reference log-probs are ``batch.ref_logps`` where stored, else come from the ``reference`` parameters.
    """
    mixture = preference_losses.mixture(section)
    beta, smoothing = section["beta"], section["label_smoothing"]

    def totals(batch: Any) -> dict[str, Any]:
        return {"pairs": jnp.sum(_valid(batch)), "tokens": jnp.sum(batch.weights * (batch.target_branches == 1))}

    def loss(params, batch, totals, memory, reference):
        stats = score(mllm, params, batch)
        policy = answer_logps(stats, batch)
        if batch.ref_logps is not None:
            ref = batch.ref_logps
        else:
            ref = jax.lax.stop_gradient(answer_logps(score(mllm, reference, batch), batch))
        chosen, rejected = policy[..., 0] - ref[..., 0], policy[..., 1] - ref[..., 1]
        valid = _valid(batch)
        pairs = mixture.sigmoid * preference_losses.sigmoid(chosen, rejected, beta, smoothing)
        if mixture.bco:
            pairs += mixture.bco * preference_losses.bco(chosen, rejected, beta, memory.mean)
        share = jnp.sum(pairs * valid) / jnp.maximum(totals["pairs"], 1.0)
        term = sft.nll(stats.logps, batch.weights * (batch.target_branches == 1))
        if mixture.nll:
            share += mixture.nll * term.sum / jnp.maximum(totals["tokens"], 1.0)
        metrics = _metrics(stats, batch, policy, ref, beta, valid)
        return share, {"losses/dpo": weighted(pairs, valid), "nll_loss": term} | metrics

    def remember(memory: Any, metrics: dict[str, Term]) -> Any:
        both = [metrics["rewards/chosen"], metrics["rewards/rejected"]]
        return memory.update(sum(term.sum for term in both), sum(term.weight for term in both))

    if mixture.bco:
        return Objective(totals, loss, preference_losses.RewardMean.zero(), remember)
    return Objective(totals, loss)


def _valid(batch: Any) -> Any:
    return (batch.row_index >= 0).astype(jnp.float32)


def _metrics(stats: TokenStats, batch: Any, policy: Any, ref: Any, beta: float, valid: Any) -> dict[str, Term]:
    tokens = [batch.weights * (batch.target_branches == branch) for branch in (1, 2)]
    rewards = beta * (policy - ref)
    margins = rewards[..., 0] - rewards[..., 1]
    # Strictly greater, beyond float32 rounding of the sums: at the reference itself policy and reference come from two
    # compiled programs, and a last bit of difference is no preference.
    rounding = _ROUNDING * beta * jnp.sum(jnp.abs(policy) + jnp.abs(ref), axis=-1)
    return {
        "rewards/chosen": weighted(rewards[..., 0], valid),
        "rewards/rejected": weighted(rewards[..., 1], valid),
        "rewards/margins": weighted(margins, valid),
        "rewards/accuracies": weighted((margins > rounding).astype(jnp.float32), valid),
        "logps/chosen": weighted(policy[..., 0], valid),
        "logps/rejected": weighted(policy[..., 1], valid),
        "logits/chosen": weighted(stats.mean_logit, tokens[0]),
        "logits/rejected": weighted(stats.mean_logit, tokens[1]),
        "mean_token_accuracy": weighted(stats.correct, tokens[0]),
        "entropy": weighted(stats.entropy, tokens[0] + tokens[1]),
    }
