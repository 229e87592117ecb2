"""Answers of a model: batched greedy or sampled decoding with a KV cache, in one compiled program per shape.

Letters: b rows (the answers: prompts times responses), v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.models.language_model import LanguageModel, head_matrix

Array = jax.Array


class Generated(NamedTuple):
    """Generated answers."""

    tokens: np.ndarray  # int32 [b, max_new]; the end token included, the pad id after it
    lengths: np.ndarray  # int32 [b]; tokens before the end token, which is not counted
    finished: np.ndarray  # bool [b]; True where there is an end token, False where the limit truncated the answer
    logps: np.ndarray  # float32 [b, max_new]; log-prob of each token (the end token's too), 0 after the end

    def ids(self, row: int) -> list[int]:
        """Tokens of one answer for its text: without end token and padding."""
        return self.tokens[row, : self.lengths[row]].tolist()

    def response(self, row: int) -> list[int]:
        """Tokens of one answer as the model chose them, the end token included, as ``branches.group_row`` takes them.

        Without an end token where the limit truncated the answer, and empty for a masked prompt.
        """
        return self.tokens[row, : self.lengths[row] + self.finished[row]].tolist()


@dataclass(frozen=True)
class Sampling:
    """How an answer is made from the model's distribution.

    Attributes:
      max_new_tokens: the limit of an answer, its end token included.
      eos_ids: any of these ends a row; the loop stops when all rows ended.
      pad_id: fills ``Generated.tokens`` after the end.
      temperature: 0 takes the most likely token (the first of equals), above 0 samples.
    """

    max_new_tokens: int
    eos_ids: tuple[int, ...]
    pad_id: int = 0
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it takes at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it is 0 (greedy) or above")


def generate(
    model: LanguageModel,
    params: Any,
    prompts: Any,
    sampling: Sampling,
    *,
    key: Array | None = None,
    image_features: Array | None = None,
    responses: int = 1,
) -> Generated:
    """Answers each prompt until an end token, or for ``sampling.max_new_tokens``.

    Args:
      model: an MLLM, or a language model alone.
      prompts: ``PromptBatch``; its rows may be padded on either side, if ``positions`` count their tokens.
      key: for a temperature above 0.
      image_features: [prompts, m*p, d_vision] to use instead of encoding ``prompts.images``.
      responses: answers to each prompt, which is read once for all of them; row i answers prompt i // responses.

    Raises:
      ValueError: sampling without a key, or no response.
    """
    if responses < 1:
        raise ValueError(f"responses is {responses}; a prompt has at least 1")
    if sampling.temperature > 0 and key is None:
        raise ValueError("sampling (temperature > 0) needs a random key")
    if key is None:
        key = jax.random.key(0)
    ends = jnp.asarray(sampling.eos_ids or (-1,), jnp.int32)
    shape = sampling.max_new_tokens, responses, sampling.temperature > 0
    inputs = params, prompts, ends, sampling.pad_id, sampling.temperature, key, image_features
    return Generated(*(np.asarray(x) for x in _generate(model, *shape, *inputs)))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _generate(
    model: LanguageModel,
    max_new: int,
    responses: int,
    sample: bool,
    params: Any,
    prompts: Any,
    ends: Array,
    pad_id: int,
    temperature: float,
    key: Array,
    image_features: Array | None,
) -> tuple[Array, ...]:
    prompts = _right_padded(prompts)
    # The decoder casts its weights to the compute dtype at every use; done once here, each of the many steps reads
    # half the bytes in bfloat16, and computes the same.
    dtype = model.config.dtype
    variables = {"params": {**params, "decoder": jax.tree.map(lambda x: x.astype(dtype), params["decoder"])}}
    head = head_matrix(variables["params"])
    b = prompts.tokens.shape[0] * responses

    def choose(hidden: Any, step: Array) -> tuple[Array, Array]:
        logits = jnp.einsum("bd,vd->bv", hidden, head, preferred_element_type=jnp.float32)
        if sample:
            token = jax.random.categorical(jax.random.fold_in(key, step), logits / temperature)
        else:
            token = jnp.argmax(logits, axis=-1)
        logps = jax.nn.log_softmax(logits, axis=-1)
        return token.astype(jnp.int32), jnp.take_along_axis(logps, token[:, None], axis=-1)[:, 0]

    def record(step: Array, hidden: Any, tokens: Array, done: Array, logps: Array) -> tuple[Array, ...]:
        token, logp = choose(hidden, step)
        tokens = tokens.at[:, step].set(jnp.where(done, pad_id, token))
        logps = logps.at[:, step].set(jnp.where(done, 0.0, logp))
        return token, tokens, done | jnp.isin(token, ends), logps

    def unfinished(state: tuple) -> Array:
        step, _, _, _, done, _ = state
        return (step < max_new) & ~jnp.all(done)

    def one_token(state: tuple) -> tuple:
        step, cache, token, tokens, done, logps = state
        cache, hidden = model.apply(variables, cache, token, method="decode_step")
        return step + 1, cache, *record(step, hidden, tokens, done, logps)

    cache, hidden = model.apply(variables, prompts, max_new, image_features, responses, method="prefill")
    # A padding row of the batch (no prompt token at all) has no answer and must not keep the loop running.
    empty = jnp.repeat(~jnp.any(prompts.segments > 0, axis=1), responses)
    blank = jnp.full((b, max_new), pad_id, jnp.int32)
    first = record(jnp.int32(0), hidden, blank, empty, jnp.zeros((b, max_new), jnp.float32))
    _, _, _, tokens, done, logps = jax.lax.while_loop(unfinished, one_token, (jnp.int32(1), cache, *first))
    is_end = jnp.isin(tokens, ends)
    first_end = jnp.where(jnp.any(is_end, axis=1), jnp.argmax(is_end, axis=1), max_new)
    lengths = jnp.where(empty, 0, first_end).astype(jnp.int32)
    return tokens, lengths, done & ~empty, logps


PER_TOKEN = ("tokens", "image_slots", "positions", "segments", "tile_taps", "tile_weights")


def _right_padded(prompts: Any) -> Any:
    """Each row's tokens moved to its start, from where the cache counts them; their order is kept."""
    order = jnp.argsort(prompts.segments == 0, axis=1, stable=True)

    def moved(x: Array) -> Array:
        return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)

    fields = {name: getattr(prompts, name) for name in PER_TOKEN}
    return prompts.replace(**{name: moved(x) for name, x in fields.items() if x is not None})
