"""Log-probs of prompts: of each of their tokens, and of the most likely words in its place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.models.language_model import LanguageModel, head_matrix, text_batch
from pivot_jax.rollout.choice import Alternatives, alternatives
from pivot_jax.shapes import bucket, round_up

Array = jax.Array
TOGETHER = 8  # prompts that are scored together
_LENGTH_STEP = 64  # their lengths are rounded up, so that few shapes are compiled
_CHUNK = 64  # tokens whose logits are in memory together
_COUNTS = (1, 5, 20)  # of alternatives that programs are compiled for


def likelihoods(model: LanguageModel, params: Any, prompts: Sequence[Sequence[int]], top: int) -> list[Alternatives]:
    """Scores up to :data:`TOGETHER` prompts of text.

    Args:
      prompts: of one or more ids each.
      top: most likely words that are wanted, at least 1.

    Returns:
      Arrays [n] and [n, a] of each prompt of n tokens. Entry i is of the token i + 1; that of the last one, which
      follows the prompt, has the log-prob of the most likely word.
    """
    count = min(next(one for one in _COUNTS if one >= top), model.config.decoder.vocab_size)
    more = bucket(len(prompts), 1) - len(prompts)
    rows = [*prompts, *[prompts[0][:1]] * more]  # few shapes, whatever is asked together
    longest = bucket(max(map(len, prompts)), _LENGTH_STEP)
    found = _score(model, count, params, text_batch(rows, model.config.decoder, multiple=longest))
    whole = [np.asarray(array) for array in found]
    return [Alternatives(*(array[i, : len(prompt)] for array in whole)) for i, prompt in enumerate(prompts)]


@partial(jax.jit, static_argnums=(0, 1))
def _score(model: LanguageModel, count: int, params: Any, batch: Any) -> Alternatives:
    """Of every token of the batch [b, n], about the one that follows it."""
    hidden: Any = model.apply({"params": params}, batch, method="hidden")
    b, n, d = hidden.shape
    is_last = jnp.arange(n) == jnp.sum(batch.segments > 0, axis=1, keepdims=True) - 1
    following = jnp.where(is_last, -1, jnp.roll(batch.tokens, -1, axis=1))
    total = round_up(b * n, _CHUNK)
    states = jnp.pad(hidden.reshape(b * n, d), ((0, total - b * n), (0, 0))).reshape(-1, _CHUNK, d)
    tokens = jnp.pad(following.reshape(b * n), (0, total - b * n)).reshape(-1, _CHUNK)
    head = head_matrix(params)
    none = jnp.zeros(head.shape[0], bool)

    def chunk(part: tuple[Array, Array]) -> Alternatives:
        logits = jnp.einsum("td,vd->tv", part[0], head.astype(part[0].dtype), preferred_element_type=jnp.float32)
        token = jnp.where(part[1] < 0, jnp.argmax(logits, axis=-1), part[1])
        return alternatives(logits, token, none, count)

    found = jax.lax.map(chunk, (states, tokens))
    return jax.tree.map(
        lambda array: array.reshape(total, *array.shape[2:])[: b * n].reshape(b, n, *array.shape[2:]), found
    )
