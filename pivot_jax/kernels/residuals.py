"""Values saved by a kernel's forward pass for its backward pass, under the name by which a remat policy keeps them."""

from __future__ import annotations

import jax
from jax.ad_checkpoint import checkpoint_name

ATTENTION = "attention"


def attention(out: jax.Array, lse: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The output and the log-sum-exp of the scores. With both kept, attention is not computed a second time."""
    return checkpoint_name(out, ATTENTION), checkpoint_name(lse, ATTENTION)
