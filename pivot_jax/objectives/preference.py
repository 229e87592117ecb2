"""Preference training on pairs that share image and prompt, or on labelled answers (stage 2).

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
from pivot_jax.objectives.pairs import PairStats, answer_targets, chosen_weights, single_weights
from pivot_jax.objectives.preference_losses import LOSSES, Terms, takes_single_answers, terms_of

_ROUNDING = 1e-6  # relative; sums of a few thousand float32 log-probs agree to this


def build_preference(mllm: MLLM, section: Any) -> Objective:
    """Objective of ``config.objective``: the weighted sum of its losses.

    Each loss is logged as ``losses/NAME``; other metrics as TRL's DPOTrainer names them. The reference log-probs are
    ``batch.ref_logps`` where stored, else come from the ``reference`` parameters; if no loss reads them, there is no
    reference.

    Raises:
      UserError: as :func:`preference_losses.terms_of`.
    """
    terms = terms_of(section)
    single = takes_single_answers(terms)
    referenced = any(LOSSES[name].needs_reference for name, _ in terms)

    def totals(batch: Any) -> dict[str, Any]:
        return {name: jnp.sum(LOSSES[name].weights(batch)) for name, _ in terms}

    def loss(params, batch, totals, memory, reference):
        scores = score(mllm, params, batch, squares=section.use_weighting)
        ref_logps = batch.ref_logps if referenced else None
        if referenced and ref_logps is None:
            ref_logps = jax.lax.stop_gradient(score(mllm, reference, batch).logps)
        stats = PairStats(scores.logps, ref_logps, batch, section, scores.log_sum_sq)
        share, losses = combined(terms, stats, totals, memory)
        return share, losses | _metrics(scores, stats, terms, single)

    def remember(memory: Any, metrics: dict[str, Term]) -> Any:
        return memory and {name: state.update(metrics) for name, state in memory.items()}

    return Objective(
        kind="unpaired" if single else "preference",
        totals=totals,
        loss=loss,
        reference=section.reference if referenced else None,
        couples_rows=any(LOSSES[name].couples_rows for name, _ in terms),
        memory={name: state for name, _ in terms if (state := LOSSES[name].state(section)) is not None} or None,
        remember=remember,
    )


def combined(terms: Terms, stats: PairStats, totals: Any, memory: Any) -> tuple[Any, dict[str, Term]]:
    """(the weighted sum of the losses, {losses/NAME: Term}) of a micro-batch.

    Args:
      totals: loss → its weight in the whole batch. memory: loss → its state, or None.
    """
    share, metrics = 0.0, {}
    for name, weight in terms:
        one = LOSSES[name]
        values = one.function(stats, (memory or {}).get(name))
        if stats.settings.use_weighting and "use_weighting" in one.reads:
            values *= stats.confidence
        term = weighted(values, one.weights(stats.batch))
        share += weight * term.sum / jnp.maximum(totals[name], 1.0)
        metrics[f"losses/{name}"] = term
    return share, metrics


def _metrics(scores: TokenStats, stats: PairStats, terms: Terms, single: bool) -> dict[str, Term]:
    """TRL's metrics. Those that compare the answers of a row are left out where rows may have a single one."""
    policy, beta = stats.policy, stats.settings.beta
    tokens = [answer_targets(stats.batch, answer) for answer in (1, 2)]
    answers = single_weights(stats.batch)
    rewards, size = _rewards(stats, terms)
    metrics = {
        "nll_loss": sft.nll(scores.logps, chosen_weights(stats.batch)),
        "rewards/chosen": weighted(rewards[..., 0], answers[..., 0]),
        "rewards/rejected": weighted(rewards[..., 1], answers[..., 1]),
        "logps/chosen": weighted(policy[..., 0], answers[..., 0]),
        "logps/rejected": weighted(policy[..., 1], answers[..., 1]),
        "logits/chosen": weighted(scores.mean_logit, tokens[0]),
        "logits/rejected": weighted(scores.mean_logit, tokens[1]),
        "mean_token_accuracy": weighted(scores.correct, tokens[0]),
        "entropy": weighted(scores.entropy, tokens[0] + tokens[1]),
    }
    if single:
        return metrics | {"kl": Term(stats.kl, jnp.ones(()))}
    margins = rewards[..., 0] - rewards[..., 1]
    # Strictly greater, beyond float32 rounding of the sums: at the reference itself policy and reference come from two
    # compiled programs, and a difference in the last bit is not a preference.
    rounding = _ROUNDING * beta * jnp.sum(size, axis=-1)
    return metrics | {
        "rewards/margins": weighted(margins, stats.valid),
        "rewards/accuracies": weighted((margins > rounding).astype(jnp.float32), stats.valid),
    }


def _rewards(stats: PairStats, terms: Terms) -> tuple[Any, Any]:
    """Implicit rewards of the answers, [b, k, 2], and the sum of the sizes of what they are differences of.

    β times the log-ratio; without a reference β log π, of all tokens or, of losses that normalise it, per token.
    """
    beta = stats.settings.beta
    if stats.ref_logps is not None:
        return beta * stats.ratios, jnp.abs(stats.policy) + jnp.abs(stats.reference)
    logps = stats.means if any(LOSSES[name].per_token for name, _ in terms) else stats.sums
    return beta * logps, jnp.abs(logps)
