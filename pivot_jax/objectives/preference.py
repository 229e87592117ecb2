"""Preference training on pairs that share image and prompt (stage 2).

A pair is one row: image and prompt once, both answers side by side as branches 1 and 2. A sequence holds k rows.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.kernels.token_logprobs import TokenStats
from pivot_jax.models.logprobs import score
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives import sft
from pivot_jax.objectives.base import Objective, Term, weighted
from pivot_jax.objectives.pairs import PairStats, answer_targets, chosen_weights
from pivot_jax.objectives.preference_losses import LOSSES, terms_of

_ROUNDING = 1e-6  # relative; sums of a few thousand float32 log-probs agree to this


def build_preference(mllm: MLLM, section: Any) -> Objective:
    """Objective of ``config.objective``: the weighted sum of its losses.

    Each loss is logged as ``losses/NAME``; other metrics as TRL's DPOTrainer names them. The reference log-probs are
    ``batch.ref_logps`` where stored, else come from the ``reference`` parameters.

    Raises:
      UserError: no terms, an unknown one, or one that is listed twice.
    """
    terms = terms_of(section)

    def totals(batch: Any) -> dict[str, Any]:
        return {name: jnp.sum(LOSSES[name].weights(batch)) for name, _ in terms}

    def loss(params, batch, totals, memory, reference):
        scores = score(mllm, params, batch)
        ref_logps = batch.ref_logps
        if ref_logps is None:
            ref_logps = jax.lax.stop_gradient(score(mllm, reference, batch).logps)
        stats = PairStats(scores.logps, ref_logps, batch, section)
        share, metrics = 0.0, {}
        for name, weight in terms:
            one = LOSSES[name]
            term = weighted(one.function(stats, (memory or {}).get(name)), one.weights(batch))
            share += weight * term.sum / jnp.maximum(totals[name], 1.0)
            metrics[f"losses/{name}"] = term
        return share, metrics | _metrics(scores, stats)

    def remember(memory: Any, metrics: dict[str, Term]) -> Any:
        return memory and {name: state.update(metrics) for name, state in memory.items()}

    return Objective(
        kind="preference",
        totals=totals,
        loss=loss,
        reference=section.reference,
        couples_rows=any(LOSSES[name].couples_rows for name, _ in terms),
        memory={name: state() for name, _ in terms if (state := LOSSES[name].state)} or None,
        remember=remember,
    )


def _metrics(scores: TokenStats, stats: PairStats) -> dict[str, Term]:
    policy, ref, valid, beta = stats.policy, stats.reference, stats.valid, stats.settings.beta
    tokens = [answer_targets(stats.batch, answer) for answer in (1, 2)]
    rewards = beta * (policy - ref)
    margins = rewards[..., 0] - rewards[..., 1]
    # Strictly greater, beyond float32 rounding of the sums: at the reference itself policy and reference come from two
    # compiled programs, and a difference in the last bit is not a preference.
    rounding = _ROUNDING * beta * jnp.sum(jnp.abs(policy) + jnp.abs(ref), axis=-1)
    return {
        "nll_loss": sft.nll(scores.logps, chosen_weights(stats.batch)),
        "rewards/chosen": weighted(rewards[..., 0], valid),
        "rewards/rejected": weighted(rewards[..., 1], valid),
        "rewards/margins": weighted(margins, valid),
        "rewards/accuracies": weighted((margins > rounding).astype(jnp.float32), valid),
        "logps/chosen": weighted(policy[..., 0], valid),
        "logps/rejected": weighted(policy[..., 1], valid),
        "logits/chosen": weighted(scores.mean_logit, tokens[0]),
        "logits/rejected": weighted(scores.mean_logit, tokens[1]),
        "mean_token_accuracy": weighted(scores.correct, tokens[0]),
        "entropy": weighted(scores.entropy, tokens[0] + tokens[1]),
    }
