"""Stage 0: image-text pretraining of the encoder with SigLIP's pairwise sigmoid loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pivot_jax.models.siglip import SigLIP
from pivot_jax.objectives.base import Objective, Term, weighted


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


def build_contrastive(model: SigLIP) -> Objective:
    """Every image against every text of the global batch, which therefore cannot be split into micro-batches."""

    def totals(batch: Any) -> dict[str, Any]:
        return {"images": jnp.sum(batch.weights)}

    def loss(params, batch, totals, memory, reference):
        image, text, scale, bias = model.apply({"params": params}, batch.images, batch.tokens)
        term = sigmoid_contrastive(image, text, scale, bias, batch.weights)
        best = jnp.argmax(image @ text.T, axis=1) == jnp.arange(image.shape[0])
        metrics = {"retrieval_accuracy": weighted(best.astype(jnp.float32), batch.weights)}
        return term.sum / jnp.maximum(totals["images"], 1.0), metrics

    return Objective("contrastive", totals, loss, couples_rows=True)
