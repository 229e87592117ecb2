"""What the forward pass of a kernel leaves for its backward pass, by the name under which a remat policy keeps it."""

from __future__ import annotations

import jax
from jax.ad_checkpoint import checkpoint_name

ATTENTION = "attention"


def attention(out: jax.Array, lse: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The output and the log-sum-exp of the scores: with both kept, attention is not computed a second time."""
    return checkpoint_name(out, ATTENTION), checkpoint_name(lse, ATTENTION)
