"""Stage 0: image-text pretraining of the encoder with SigLIP's sigmoid loss."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pivot_jax.models.siglip import SigLIP
from pivot_jax.objectives.contrastive import sigmoid_contrastive
from pivot_jax.objectives.terms import weighted
from pivot_jax.steps.objective import Objective


def build(model: SigLIP) -> Objective:
    """Every image against every text of the global batch; so it cannot be cut into micro-batches."""

    def totals(batch: Any) -> dict[str, Any]:
        return {"images": jnp.sum(batch.weights)}

    def loss(params, batch, totals, memory, reference):
        image, text, scale, bias = model.apply({"params": params}, batch.images, batch.tokens)
        term = sigmoid_contrastive(image, text, scale, bias, batch.weights)
        best = jnp.argmax(image @ text.T, axis=1) == jnp.arange(image.shape[0])
        metrics = {"retrieval_accuracy": weighted(best.astype(jnp.float32), batch.weights)}
        return term.sum / jnp.maximum(totals["images"], 1.0), metrics

    return Objective(totals, loss)
