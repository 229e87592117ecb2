"""SigLIP's pairwise sigmoid loss for stage 0."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.objectives.terms import Term


def sigmoid_contrastive(image: Any, text: Any, scale: Any, bias: Any, valid: Any) -> Term:
    """Σ_ij -log σ(z_ij (scale * x_i·y_j + bias)) over the number of images, z = +1 on the diagonal, else -1.

    Zhai et al. 2023, eq. 1.

    Args:
      image, text: unit vectors, float32 [b, d].
      scale, bias: logit scale (exponentiated) and bias, scalars.
      valid: float32 [b]; pairs with a row or column of weight 0 do not count.
    """
    logits = scale * jnp.einsum("id,jd->ij", image, text, precision=jax.lax.Precision.HIGHEST) + bias
    sign = 2.0 * jnp.eye(image.shape[0]) - 1.0
    pairs = -jax.nn.log_sigmoid(sign * logits) * valid[:, None] * valid[None, :]
    return Term(jnp.sum(pairs), jnp.sum(valid))
