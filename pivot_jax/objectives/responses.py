"""Statistics of a batch of sampled responses, which every policy loss is computed from.

Letters: b sequences, t scored targets of a sequence, k rows (prompts) in a sequence, n responses to a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.data.processing.batch import VLMBatch
from pivot_jax.models.logprobs import answer_weights

_EXACT = jax.lax.Precision.HIGHEST


@dataclass(frozen=True)
class Responses:
    """Which targets belong to which response. From the batch alone, without parameters."""

    batch: VLMBatch
    n: int  # responses to a prompt, at most

    @cached_property
    def mask(self) -> Any:
        """1 at each token of a response, 0 at targets of the prompt and at padding: float32 [b, t]."""
        return self.batch.weights * (self.batch.target_branches > 0)

    @cached_property
    def valued(self) -> Any:
        """1 at each token of a response that has a return, float32 [b, t]; None in a batch without returns."""
        returns = self.batch.returns
        return None if returns is None else self.mask * jnp.isfinite(returns)

    @cached_property
    def owners(self) -> Any:
        """1 where a token belongs to a response: float32 [b, t, k, n]."""
        return answer_weights(self.batch, self.n) * (self.mask > 0)[:, :, None, None]

    @cached_property
    def lengths(self) -> Any:
        """Tokens of each response: float32 [b, k, n]; 0 where there is none."""
        return jnp.sum(self.owners, axis=1)

    @cached_property
    def count(self) -> Any:
        """Responses of the batch, a scalar."""
        return jnp.sum(self.lengths > 0).astype(jnp.float32)

    @cached_property
    def shares(self) -> Any:
        """1 / length of the response at each of its tokens, 0 elsewhere: float32 [b, t]."""
        return self.spread(1.0 / jnp.maximum(self.lengths, 1.0))

    def sums(self, values: Any) -> Any:
        """Values of each token, [b, t], summed over each response: [b, k, n]."""
        return jnp.einsum("bt,btkn->bkn", values, self.owners, precision=_EXACT)

    def means(self, values: Any) -> Any:
        """Values of each token, [b, t], averaged over each response: [b, k, n]; 0 where there is none."""
        return self.sums(values) / jnp.maximum(self.lengths, 1.0)

    def spread(self, values: Any) -> Any:
        """A value per response, [b, k, n], at each of its tokens and 0 elsewhere: [b, t]."""
        return jnp.einsum("bkn,btkn->bt", values, self.owners, precision=_EXACT)


@dataclass(frozen=True)
class ResponseStats(Responses):
    """Log-probs of a batch of responses under the policy, and what the batch stores of them; [b, t], 0 at padding.

    Under accumulation the batch is a micro-batch. Only ``logps``, ``entropy`` and ``values`` carry gradients.
    """

    logps: Any = None  # log π(token | what precedes it)
    entropy: Any = None  # of the policy's distribution, nats
    advantages: Any = None
    old_logps: Any = None  # under the policy at the start of the update
    ref_logps: Any = None  # under the reference, or None
    importance: Any = None  # weight against the sampler's distribution, or None
    sampling_logps: Any = None  # under the sampler's distribution, or None
    masked_logps: Any = None  # under the policy at the start of the update with masked images, or None
    values: Any = None  # of the value head, or None
    old_values: Any = None  # at the start of the update, or None
    returns: Any = None  # that the values are trained to predict, or None; 0 where there is none

    @property
    def deltas(self) -> Any:
        """Log-ratio Δ = log π - log π_old of each token."""
        return self.logps - self.old_logps


def response_stats(batch: VLMBatch, n: int, logps: Any, entropy: Any, values: Any = None) -> ResponseStats:
    """Statistics of a batch with ``advantages``, where ``logps`` and ``entropy``, [b, t], are the policy's.

    ``values`` [b, t] are those of its value head, where it has one.

    Without ``batch.old_logps`` the batch is on policy: log π_old is log π without its gradient, and every ratio is
    exactly 1.

    Raises:
      ValueError: a batch without advantages.
    """
    if batch.advantages is None:
        raise ValueError("batch.advantages: None; a policy objective needs the advantage of each target")
    responses = Responses(batch, n)
    scored, valued = responses.mask > 0, responses.valued

    def masked(values: Any) -> Any:
        return None if values is None else jnp.where(scored, values, 0.0)

    logps = masked(logps)
    old = jax.lax.stop_gradient(logps) if batch.old_logps is None else masked(batch.old_logps)
    return ResponseStats(
        batch,
        n,
        logps=logps,
        entropy=masked(entropy),
        advantages=masked(batch.advantages),
        old_logps=old,
        ref_logps=masked(batch.ref_logps),
        importance=masked(batch.importance),
        sampling_logps=masked(batch.sampling_logps),
        masked_logps=masked(batch.masked_logps),
        values=masked(values),
        old_values=masked(batch.old_values),
        returns=None if valued is None else jnp.where(valued > 0, batch.returns, 0.0),
    )
