"""Features of texts in every layer of a language model, for the alignment with an encoder.

As platonic-rep takes them: a text by itself with the tokenizer's own special tokens, the embeddings as layer 0, the
last layer after the closing norm. Letters: n texts, l layers (blocks + 1), d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.models.language_model import LanguageModel, text_batch
from pivot_jax.progress import progress
from pivot_jax.train.open import OpenLanguageModel, OpenModel

POOLS = {"mean": "layer_means", "last": "layer_last_tokens"}  # → method of LanguageModel
MULTIPLE = 16  # tokens; texts are padded to a multiple of it


def extract(
    model: OpenLanguageModel | OpenModel,
    texts: Sequence[str],
    *,
    pool: str = "mean",
    batch_size: int = 16,
    show: bool = True,
) -> np.ndarray:
    """Features of every text, in order: float32 [n, l, d].

    Args:
      pool: ``mean`` over the text's tokens, or its ``last`` token.

    Raises:
      UserError: an empty text, or a language model without a tokenizer (a pack).
      ValueError: an unknown pool.
    """
    if pool not in POOLS:
        raise ValueError(f"pool '{pool}' is unknown; choose one of {', '.join(POOLS)}")
    tokenizer = model.processor.chat.tokenizer if isinstance(model, OpenModel) else model.tokenizer
    module: LanguageModel = model.module
    decoder = module.config.decoder
    if tokenizer is None:
        raise UserError(f"{model.name} has no tokenizer to read texts with; name the run or the Hugging Face folder")
    if not texts:
        raise UserError("no texts to extract features from")
    rows = [tokenizer(text)["input_ids"] for text in texts]
    if empty := [index for index, ids in enumerate(rows) if not ids]:
        raise UserError(f"text {empty[0] + 1} of {len(texts)} is empty; every item needs a text")
    if (largest := max(max(ids) for ids in rows)) >= decoder.vocab_size:
        raise UserError(
            f"{model.name}: its tokenizer gives token {largest}, but its table has {decoder.vocab_size}; they do not "
            "belong together"
        )
    order = np.argsort([len(ids) for ids in rows], kind="stable")  # texts of a similar length share a batch
    found: dict[int, np.ndarray] = {}
    with progress("text features", len(rows), show=show) as advance:
        for start in range(0, len(rows), batch_size):
            taken = order[start : start + batch_size]
            # The last batch is filled up with its last text, so that only the lengths decide what is compiled.
            filled = [rows[index] for index in taken] + [rows[taken[-1]]] * (batch_size - len(taken))
            batch = text_batch(filled, decoder, multiple=MULTIPLE)
            found |= zip(taken.tolist(), np.asarray(_pooled(module, POOLS[pool], model.params, batch)), strict=False)
            advance(len(taken))
    return np.stack([found[index] for index in range(len(rows))])


@partial(jax.jit, static_argnums=(0, 1))
def _pooled(module: LanguageModel, method: str, params: Any, batch: Any) -> Any:
    return module.apply({"params": params}, batch, method=method)
