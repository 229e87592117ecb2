"""Text ability (:mod:`pivot_jax.eval.text`) of weight sources: of a trained run, or of a GGUF file as it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.eval.text import TextAbility, ability
from pivot_jax.train.open import open_language_model


def text_ability(weights: str) -> TextAbility:
    """Perplexity on held-out passages and answers to twenty questions.

    Args:
      weights: ``run:WORKDIR[@STEP]``, ``hf:FOLDER``, ``hf:FILE.gguf`` or ``hf:package:NAME/FILE.gguf``; of a whole
        MLLM its language model, without images.

    Raises:
      UserError: no such source, or one without a language model, a tokenizer or a chat template.
    """
    model = open_language_model(weights)
    if model.tokenizer is None:
        raise UserError(f"{weights} has no tokenizer to read texts with; name the run or the Hugging Face folder")
    return ability(model.module, model.params, model.tokenizer, model.module.config.decoder)


def record(weights: str, found: TextAbility) -> dict[str, Any]:
    """As JSON: the two figures with their intervals, and what they are made of."""
    return {"weights": weights, "perplexity": asdict(found.perplexity), "correct": asdict(found.correct)} | asdict(
        found
    )
