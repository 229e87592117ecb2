"""Batches of sampled responses without a model: [N, t] arrays laid out as rows of groups, and back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.data.processing.batch import VLMBatch
from pivot_jax.objectives.policy import policy_loss, policy_totals
from pivot_jax.objectives.responses import Responses, response_stats


@dataclass(frozen=True)
class Layout:
    """Responses of the given lengths, ``n`` to a row; each row begins with a target of its prompt, which never counts.

    ``padding`` targets end each row, ``packing`` rows share a sequence, and a masked row can follow.
    """

    lengths: tuple[int, ...]
    n: int = 1
    padding: int = 0
    packing: int = 1
    masked_rows: int = 0

    @property
    def slots(self):
        """Of each target of each sequence (response, token), (-1, 0) at the prompt's and (-2, 0) at padding."""
        groups = np.arange(len(self.lengths)).reshape(-1, self.n)
        rows = [[(-1, 0), *((i, t) for i in group for t in range(self.lengths[i]))] for group in groups]
        rows += [[] for _ in range(self.masked_rows)]
        rows = [list(itertools.chain(*rows[i : i + self.packing])) for i in range(0, len(rows), self.packing)]
        size = max(map(len, rows)) + self.padding
        return np.asarray([row + [(-2, 0)] * (size - len(row)) for row in rows])

    def place(self, values):
        """[N, t] → [b, targets]; 7 at the prompt's targets and at padding, to show whether they count."""
        slots = self.slots
        found = np.asarray(values)[np.maximum(slots[..., 0], 0), slots[..., 1]]
        return jnp.asarray(np.where(slots[..., 0] >= 0, found, 7.0), jnp.float32)

    def collect(self, values):
        """[b, targets] → [N, t], 0 after each response's end."""
        slots, values = self.slots, np.asarray(values)
        out = np.zeros((len(self.lengths), max(self.lengths)), np.float32)
        here = slots[..., 0] >= 0
        out[slots[here][:, 0], slots[here][:, 1]] = values[here]
        return out

    def batch(self, **stored):
        response, _ = np.moveaxis(self.slots, -1, 0)
        rows = (len(self.lengths) // self.n + self.masked_rows) // self.packing
        row = np.maximum(response, 0) // self.n
        starts = np.cumsum(response == -1, axis=1) - 1
        index = np.arange(rows * self.packing).reshape(rows, self.packing)
        blank = jnp.zeros((rows, 1), jnp.int32)
        return VLMBatch(
            images=blank,
            tokens=blank,
            image_slots=blank,
            positions=blank,
            segments=blank,
            branches=blank,
            sources=jnp.zeros(response.shape, jnp.int32),
            targets=jnp.zeros(response.shape, jnp.int32),
            weights=jnp.asarray(response > -2, jnp.float32),
            target_branches=jnp.asarray(np.where(response >= 0, response - row * self.n + 1, 0), jnp.int32),
            target_rows=jnp.asarray(np.maximum(starts, 0), jnp.int32),
            row_index=jnp.asarray(np.where(index < len(self.lengths) // self.n, index, -1)),
            **{name: None if value is None else self.place(value) for name, value in stored.items()},
        )


def loss_of(algorithm, layout, logps, *, entropy=None, values=None, accumulate=1, max_tokens=16, **stored):
    """(loss, gradient in logps [N, t], gradient in entropy [N, t], {metric: mean}) in ``accumulate`` micro-batches.

    ``values`` [N, t] are a value head's; their gradient is then the fifth result.
    """
    batch = layout.batch(**stored)
    entropy = np.zeros_like(logps) if entropy is None else entropy

    def part(x, i):
        return x[i::accumulate]

    def loss(logps, entropy, values):
        totals = policy_totals(algorithm, Responses(batch, layout.n), max_tokens)
        total, terms = 0.0, []
        for i in range(accumulate):
            micro = jax.tree.map(lambda x, i=i: part(x, i), batch)
            own = None if values is None else part(values, i)
            stats = response_stats(micro, layout.n, part(logps, i), part(entropy, i), own)
            share, metrics = policy_loss(algorithm, stats, max_tokens, totals)
            total += share
            terms.append(metrics)
        summed = jax.tree.map(lambda *x: sum(x), *terms)
        return total, summed

    # not compiled: operations are shared by the tests
    run = jax.value_and_grad(loss, argnums=(0, 1) if values is None else (0, 1, 2), has_aux=True)
    placed = (None if x is None else layout.place(x) for x in (logps, entropy, values))
    (value, terms), grads = run(*placed)
    metrics = {name: float(term.mean()) for name, term in terms.items()}
    of_logps, of_entropy, *of_values = (layout.collect(grad) for grad in grads)
    return float(value), of_logps, of_entropy, metrics, *of_values
