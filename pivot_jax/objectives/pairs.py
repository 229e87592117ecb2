"""Statistics of a batch of preference pairs, or of single answers with a label, for every preference loss.

Letters: b sequences, t scored targets of a sequence, k rows (pairs) in a sequence. A last axis of size 2 is (chosen,
rejected). A single answer is the chosen one of its row if it is desirable, else the rejected one; the other is empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.data.processing.batch import CHOSEN, MISMATCHED, REJECTED, VLMBatch
from pivot_jax.objectives.f_divergences import SCORES

_EXACT = jax.lax.Precision.HIGHEST


def pair_weights(batch: VLMBatch) -> Any:
    """1 for each pair, 0 for a masked one: float32 [b, k]."""
    return (batch.row_index >= 0).astype(jnp.float32)


def answer_targets(batch: VLMBatch, answer: int) -> Any:
    """1 for each target of an answer (1 chosen, 2 rejected), without prompt targets, else 0: float32 [b, t]."""
    return batch.weights * (batch.target_branches == answer)


def chosen_weights(batch: VLMBatch) -> Any:
    """1 for each target of a chosen answer, else 0: float32 [b, t]."""
    return answer_targets(batch, CHOSEN)


def rejected_weights(batch: VLMBatch) -> Any:
    """1 for each target of a rejected answer, else 0: float32 [b, t]."""
    return answer_targets(batch, REJECTED)


def answer_masks(batch: VLMBatch, *branches: int) -> Any:
    """1 where a target belongs to this branch of a row, without prompt targets: float32 [b, t, k, branches]."""
    row = batch.target_rows[:, :, None] == jnp.arange(batch.row_index.shape[1])
    own = jnp.stack([answer_targets(batch, branch) for branch in branches], axis=-1)
    return row[..., None] * own[:, :, None, :]


def single_weights(batch: VLMBatch) -> Any:
    """1 for each answer that a row has, 0 for one that it lacks or that is masked: float32 [b, k, 2]."""
    return (jnp.sum(answer_masks(batch, CHOSEN, REJECTED), axis=1) > 0).astype(jnp.float32)


@dataclass(frozen=True)
class PairStats:
    """Log-probs of policy and reference over a batch (a micro-batch under accumulation), and who they belong to.

    Per target; the properties add up or count. Prompt targets count in none of them. The batch is global: under a mesh
    its rows are split over devices, but sums, sorts and comparisons over b run over all of them.
    """

    logps: Any  # float32 [b, t]; log π(target | what precedes it), with gradient
    ref_logps: Any  # float32 [b, t]; of the reference model, without gradient; None: no loss reads it
    batch: VLMBatch  # targets, target_branches and target_rows, weights, row_index
    settings: Any  # config.objective: beta, label_smoothing, …
    log_sum_sq: Any = None  # float32 [b, t]; log Σ π² over the vocabulary where a target is predicted; for WPO

    @cached_property
    def valid(self) -> Any:
        """1 for each pair, 0 for a masked one: float32 [b, k]."""
        return pair_weights(self.batch)

    @cached_property
    def masks(self) -> Any:
        """1 where a target belongs to an answer of a pair: float32 [b, t, k, 2]."""
        return answer_masks(self.batch, CHOSEN, REJECTED)

    @cached_property
    def lengths(self) -> Any:
        """Targets of each answer: float32 [b, k, 2]; 0 for a masked pair, and for an answer that a row lacks."""
        return jnp.sum(self.masks, axis=1)

    @cached_property
    def sums(self) -> Any:
        """Σ log π over each answer: float32 [b, k, 2]."""
        return _sums(self.logps, self.masks)

    @cached_property
    def means(self) -> Any:
        """Σ log π / length of each answer: float32 [b, k, 2]."""
        return self.sums / jnp.maximum(self.lengths, 1.0)

    @cached_property
    def _shares(self) -> Any:
        """The weight of each target in its answer's log-prob, float32 [b, t, k, 2]: LD-DPO's α beyond a common length.

        Liu et al. 2024, "Length desensitization in direct preference optimization": the first min(|c|, |r|)
        tokens of both answers count in full, the tokens of the longer one after them α = ``objective.ld_alpha``. With
        α = 1, the default, all count in full.
        """
        if self.settings.ld_alpha == 1:
            return self.masks
        place = jnp.cumsum(self.masks, axis=1)  # the targets of an answer are in order; 1 is its first
        common = jnp.min(self.lengths, axis=-1)[:, None, :, None]
        return self.masks * jnp.where(place <= common, 1.0, self.settings.ld_alpha)

    @cached_property
    def policy(self) -> Any:
        """Σ log π over each answer, with LD-DPO's weights: float32 [b, k, 2]."""
        return _sums(self.logps, self._shares)

    @cached_property
    def reference(self) -> Any:
        """Σ log π_ref over each answer, with the same weights: float32 [b, k, 2]."""
        return _sums(self.ref_logps, self._shares)

    @cached_property
    def ratios(self) -> Any:
        """Log-ratios r = Σ log π - Σ log π_ref: float32 [b, k, 2]."""
        return self.policy - self.reference

    @property
    def chosen(self) -> Any:
        """Log-ratio r_c of the chosen answer: float32 [b, k]."""
        return self.ratios[..., 0]

    @property
    def rejected(self) -> Any:
        """Log-ratio r_r of the rejected answer: float32 [b, k]."""
        return self.ratios[..., 1]

    @cached_property
    def scores(self) -> Any:
        """s = f'(e^r) of ``objective.f_divergence_type``, which is r by default: float32 [b, k, 2]."""
        return SCORES[self.settings.f_divergence_type](self.ratios, self.settings)

    @property
    def delta(self) -> Any:
        """d = s_c - s_r: float32 [b, k]."""
        return self.scores[..., 0] - self.scores[..., 1]

    @cached_property
    def mean_delta(self) -> Any:
        """s_c / |c| - s_r / |r|, with the lengths |c| and |r|: float32 [b, k]."""
        means = self.scores / jnp.maximum(self.lengths, 1.0)
        return means[..., 0] - means[..., 1]

    @cached_property
    def kl(self) -> Any:
        """KTO's z₀: the mean log-ratio of answers to other prompts, at least 0, without gradient. A scalar.

        It estimates KL(π ‖ π_ref); the mean is over the rows of the batch that have such an answer.
        """
        masks = answer_masks(self.batch, MISMATCHED)
        ratios = _sums(self.logps - self.ref_logps, masks)
        count = jnp.sum(jnp.sum(masks, axis=1) > 0)
        return jax.lax.stop_gradient(jnp.maximum(jnp.sum(ratios) / jnp.maximum(count, 1), 0.0))

    @cached_property
    def confidence(self) -> Any:
        """WPO's weight of each pair, without gradient: float32 [b, k].

        w(c) w(r) with w(y) = exp(1/|y| Σ_t (log π(y_t) - log Σ_v π(v)²)): how close the pair is to what the policy
        would sample, relative to its own confidence. Zhou et al. 2024, "WPO", eq. 2, with aligned weights.
        """
        means = _sums(self.logps - self.log_sum_sq, self.masks) / jnp.maximum(self.lengths, 1.0)
        return jax.lax.stop_gradient(jnp.exp(jnp.sum(means, axis=-1)))


def _sums(values: Any, masks: Any) -> Any:
    """Values of each target, [b, t], summed with the weights ``masks`` [b, t, k, answers]: [b, k, answers]."""
    return jnp.einsum("bt,btkr->bkr", values, masks, precision=_EXACT)
