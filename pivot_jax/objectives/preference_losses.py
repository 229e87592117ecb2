"""Losses on preference pairs, by name, and the weighted lists of them that presets are.

A preference objective is a list ((name, weight), …); its loss is Σ weight * mean of that loss. To add a loss, write a
function here and give it an entry in :data:`LOSSES`; ``objective.terms`` can then name it.

A loss is ``f(stats, state) -> losses``: ``stats`` is :class:`~pivot_jax.objectives.pairs.PairStats`, ``state`` the
loss's own state or None. It returns one loss per pair, float32 [b, k], or one per target, float32 [b, t]. With the
weights w of its entry, the sum is Σ losses * w and the weight Σ w, over all micro-batches and devices.

In the formulas r = Σ log π(y|x) - Σ log π_ref(y|x), summed (not averaged) over the answer's tokens, is the log-ratio of
an answer; the subscripts c and r are the chosen and the rejected one (``stats.chosen`` and ``stats.rejected`` are these
log-ratios). β is ``objective.beta``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from pivot_jax.errors import UserError, suggest
from pivot_jax.objectives.base import Term
from pivot_jax.objectives.pairs import PairStats, chosen_weights, pair_weights


def sigmoid(stats: PairStats, state: None) -> Any:
    """DPO: -log σ(β (r_c - r_r)); with label smoothing ε, cDPO: -(1-ε) log σ(βd) - ε log σ(-βd). Per pair.

    DPO: Rafailov et al. 2023, eq. 7, and PIVOT eq. 1, with β = 0.1 and ε = 0. cDPO: Mitchell 2023. ε is
    ``objective.label_smoothing``.
    """
    smoothing = stats.settings.label_smoothing
    logits = stats.settings.beta * (stats.chosen - stats.rejected)
    return -(1 - smoothing) * jax.nn.log_sigmoid(logits) - smoothing * jax.nn.log_sigmoid(-logits)


@struct.dataclass
class RewardMean:
    """Running mean δ of all rewards β r so far, chosen and rejected; BCO's state.

    A step uses the mean of the steps before it, so accumulation does not change it (InternVL's code includes the
    current micro-batch). At the first step, where every reward is 0, the two agree.
    """

    mean: Any
    count: Any

    @classmethod
    def zero(cls) -> RewardMean:
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    def add(self, total: Any, count: Any) -> RewardMean:
        """The mean with ``count`` more rewards, which sum to ``total``."""
        seen = self.count + count
        return RewardMean(self.mean + (total - count * self.mean) / jnp.maximum(seen, 1.0), seen)

    def update(self, metrics: dict[str, Term]) -> RewardMean:
        """The mean with the rewards of a step."""
        both = [metrics["rewards/chosen"], metrics["rewards/rejected"]]
        return self.add(sum(term.sum for term in both), sum(term.weight for term in both))


def bco(stats: PairStats, state: RewardMean) -> Any:
    """BCO on a pair: -log σ(β r_c - δ) - log σ(-(β r_r - δ)), δ the running mean of rewards β r. Per pair.

    The quality loss of InternVL's MPO (Wang et al. 2024, eq. 4 and 5); BCO: Jung et al. 2024.
    """
    beta, delta = stats.settings.beta, state.mean
    return -jax.nn.log_sigmoid(beta * stats.chosen - delta) - jax.nn.log_sigmoid(-(beta * stats.rejected - delta))


def sft(stats: PairStats, state: None) -> Any:
    """Negative log-likelihood of the chosen answer: -log π(token). Per target of the chosen answer.

    MPO's generation loss; PIVOT's optional NLL term, weight γ.
    """
    return -stats.logps


@dataclass(frozen=True)
class PairLoss:
    """A preference loss and its properties.

    Attributes:
      function: (stats, state) → losses, [b, k] or [b, t].
      weights: batch → the weight of each loss, of the same shape; from the batch alone.
      state: () → the loss's own state at step 0. It has a method ``update({metric: Term} of the whole batch)``, which
        returns the next step's state. None: no state.
      reads: settings of ``objective`` that it reads besides ``beta``; setting one that no term reads is an error.
      couples_rows: a row's loss depends on other rows of the batch; ``train.accumulate`` must then be 1.
    """

    function: Callable[[PairStats, Any], Any]
    weights: Callable[[Any], Any] = pair_weights
    state: Callable[[], Any] | None = None
    reads: tuple[str, ...] = ()
    couples_rows: bool = False


LOSSES = {
    "sigmoid": PairLoss(sigmoid, reads=("label_smoothing",)),
    "bco": PairLoss(bco, state=RewardMean.zero),
    "sft": PairLoss(sft, weights=chosen_weights),
}

Terms = tuple[tuple[str, float], ...]
PRESETS: dict[str, Terms] = {
    "dpo": (("sigmoid", 1.0),),  # PIVOT; with label smoothing, cDPO
    "mpo": (("sigmoid", 0.8), ("bco", 0.2), ("sft", 1.0)),  # InternVL: preference, quality, generation
    "preference": (),  # exactly the terms of the config
}


def terms_of(section: Any) -> Terms:
    """The weighted losses of ``config.objective``: ``objective.terms``, or those of the preset if it is empty.

    Raises:
      UserError: no terms, an unknown one, one that is listed twice, or a setting that none of them reads.
    """
    terms: Terms = section.terms or PRESETS[section.name]
    if not terms:
        raise UserError(
            f"objective.terms: empty, but objective.name={section.name!r} is exactly these terms; set them, such as "
            f"(('sigmoid', 1.0), ('sft', 0.5)) (losses: {', '.join(LOSSES)})"
        )
    names = [name for name, _ in terms]
    for name in names:
        if name not in LOSSES:
            raise UserError(f"objective.terms: no loss {name!r} (losses: {', '.join(LOSSES)}){suggest(name, LOSSES)}")
        if names.count(name) > 1:
            raise UserError(f"objective.terms: {name!r} is listed {names.count(name)} times; give it one weight")
    if section.label_smoothing and not any("label_smoothing" in LOSSES[name].reads for name in names):
        raise UserError(
            f"objective.label_smoothing: {section.label_smoothing}, but no loss of {', '.join(names)} reads it; "
            "set it to 0"
        )
    return terms
