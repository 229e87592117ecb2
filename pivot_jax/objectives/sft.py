"""Supervised fine-tuning on scored tokens: stages 1a, 1b, 2-SFT and 3."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pivot_jax.models.logprobs import score
from pivot_jax.models.mllm import MLLM
from pivot_jax.objectives.base import Objective, Term, weighted


def nll(logps: Any, weights: Any) -> Term:
    """Negative log-likelihood per scored token: Σ -log p(token) * weight over Σ weight.

    PIVOT eq. 1 (SFT), with the mean over all scored tokens of the global batch.

    Args:
      logps, weights: float32 [b, t]; weight 0 where there is no target.
    """
    return weighted(-logps, weights)


def build_sft(mllm: MLLM) -> Objective:
    """Token-mean NLL over the global batch; metrics as TRL's SFTTrainer names them."""

    def totals(batch: Any) -> dict[str, Any]:
        return {"tokens": jnp.sum(batch.weights)}

    def loss(params, batch, totals, memory, reference):
        stats = score(mllm, params, batch)
        term = nll(stats.logps, batch.weights)
        metrics = {
            "mean_token_accuracy": weighted(stats.correct, batch.weights),
            "entropy": weighted(stats.entropy, batch.weights),
        }
        return term.sum / jnp.maximum(totals["tokens"], 1.0), metrics

    return Objective("sft", totals, loss)
