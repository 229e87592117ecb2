"""Statistics of a batch of preference pairs, which every preference loss is computed from.

Letters: b sequences, t scored targets of a sequence, k pairs in a sequence. The last axis of size 2 is (chosen,
rejected).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from pivot_jax.data.processing.batch import CHOSEN, VLMBatch
from pivot_jax.models.logprobs import answer_sums


def pair_weights(batch: VLMBatch) -> Any:
    """1 for each pair, 0 for a masked one: float32 [b, k]."""
    return (batch.row_index >= 0).astype(jnp.float32)


def answer_targets(batch: VLMBatch, answer: int) -> Any:
    """1 for each target of an answer (1 chosen, 2 rejected), without prompt targets, else 0: float32 [b, t]."""
    return batch.weights * (batch.target_branches == answer)


def chosen_weights(batch: VLMBatch) -> Any:
    """1 for each target of a chosen answer, else 0: float32 [b, t]."""
    return answer_targets(batch, CHOSEN)


@dataclass(frozen=True)
class PairStats:
    """Log-probs of policy and reference over a batch (a micro-batch under accumulation), and who they belong to.

    Per target; the properties add up or count. The batch is global: under a mesh its rows are split over devices, but
    sums, sorts and comparisons over b run over all of them.
    """

    logps: Any  # float32 [b, t]; log π(target | what precedes it), with gradient
    ref_logps: Any  # float32 [b, t]; of the reference model, without gradient
    batch: VLMBatch  # targets, target_branches and target_rows, weights, row_index
    settings: Any  # config.objective: beta, label_smoothing, …

    @cached_property
    def valid(self) -> Any:
        """1 for each pair, 0 for a masked one: float32 [b, k]."""
        return pair_weights(self.batch)

    @cached_property
    def policy(self) -> Any:
        """Σ log π over each answer: float32 [b, k, 2]. Prompt targets count in both answers of their pair."""
        return answer_sums(self.logps, self.batch)

    @cached_property
    def reference(self) -> Any:
        """Σ log π_ref over each answer: float32 [b, k, 2]."""
        return answer_sums(self.ref_logps, self.batch)

    @cached_property
    def chosen(self) -> Any:
        """Log-ratio r_c = Σ log π - Σ log π_ref of the chosen answer: float32 [b, k]."""
        return self.policy[..., 0] - self.reference[..., 0]

    @cached_property
    def rejected(self) -> Any:
        """Log-ratio r_r of the rejected answer: float32 [b, k]."""
        return self.policy[..., 1] - self.reference[..., 1]

    @cached_property
    def masks(self) -> Any:
        """1 where a target belongs to an answer of a pair, without prompt targets: float32 [b, t, k, 2]."""
        pair = self.batch.target_rows[:, :, None] == jnp.arange(self.batch.row_index.shape[1])
        own = jnp.stack([answer_targets(self.batch, answer) for answer in (1, 2)], axis=-1)
        return pair[..., None] * own[:, :, None, :]

    @cached_property
    def lengths(self) -> Any:
        """Targets of each answer, without prompt targets: float32 [b, k, 2]; 0 for a masked pair."""
        return jnp.sum(self.masks, axis=1)
