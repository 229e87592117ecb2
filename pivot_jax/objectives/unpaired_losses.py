"""Losses of single answers that are labelled as desirable or not; a pair counts as one of each.

A loss is ``f(stats, state) -> float32 [b, k, 2]``, one value per answer: desirable ones first (``pairs.PairStats``).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.objectives.pairs import PairStats


def kto(stats: PairStats, state: None) -> Any:
    """w_D (1 - σ(β (r - z₀))) of a desirable answer, w_U (1 - σ(β (z₀ - r))) of an undesirable one. Per answer.

    r = Σ log π(y|x) - Σ log π_ref(y|x), β = ``objective.beta``, w_D and w_U = ``objective.desirable_weight`` and
    ``objective.undesirable_weight``. z₀ (``stats.kl``) is the mean of r over answers to other prompts in the batch, at
    least 0, without gradient; the data set gives every row such an answer (``data.sources.mismatched``).
    KTO: Ethayarajh et al. 2024, section 4.1.
    """
    settings = stats.settings
    sign = jnp.asarray([1.0, -1.0])
    weight = jnp.asarray([settings.desirable_weight, settings.undesirable_weight])
    return weight * jax.nn.sigmoid(-settings.beta * sign * (stats.ratios - stats.kl))
