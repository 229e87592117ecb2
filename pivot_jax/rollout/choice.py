"""Which token comes next: temperature, truncation and banned ids, and one uniform number per token.

A token is the inverse of the distribution function at that number, over the vocabulary in the order of its ids. Noise
for each word of the vocabulary (Gumbel) draws from the same distribution and costs several times as much.

Letters: b rows, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from pivot_jax.rollout.engine import Sampling
from pivot_jax.shapes import round_up

Array = jax.Array

_CHUNK = 256  # words whose probabilities are added up before the search looks into them


@dataclass(frozen=True)
class Rule:
    """The part of a sampling that a program is compiled for."""

    greedy: bool
    truncated: bool  # by top-p, top-k or min-p, which needs the logits in order


@struct.dataclass
class Draw:
    """The part of a sampling that may change without compiling anew; float32 [] unless stated otherwise."""

    temperature: Any
    top_p: Any
    top_k: Any  # int32 []; the vocabulary's size where all are kept
    min_p: Any
    banned: Any  # bool [v]
    ends: Any  # bool [v]; ids that end a response
    seed: Any  # uint32 [2]; of the run, and the number of the rollout


def rule_of(sampling: Sampling) -> Rule:
    truncated = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0
    greedy = sampling.temperature == 0
    return Rule(greedy, truncated and not greedy)


def draw_of(sampling: Sampling, vocabulary: int, seed: tuple[int, int]) -> Draw:
    """On the host. ``vocabulary``: v, the rows of the head matrix."""

    def chosen(ids: tuple[int, ...]) -> np.ndarray:
        found = np.zeros(vocabulary, bool)
        found[list(ids)] = True
        return found

    return Draw(
        temperature=np.float32(sampling.temperature),
        top_p=np.float32(sampling.top_p),
        top_k=np.int32(min(sampling.top_k or vocabulary, vocabulary)),
        min_p=np.float32(sampling.min_p),
        banned=chosen(sampling.banned_ids),
        ends=chosen(sampling.stop_ids),
        seed=np.asarray([part % 2**32 for part in seed], np.uint32),
    )


def row_keys(seed: Array, prompts: Array, responses: Array) -> Array:
    """A random key per row, from the seed uint32 [2] and the numbers of prompt and response, uint32 [b]."""
    root = jax.random.fold_in(jax.random.key(seed[0], impl="threefry2x32"), seed[1])

    def key(prompt: Array, response: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(root, prompt), response)

    return jax.vmap(key)(prompts, responses)


def uniforms(keys: Array, positions: Array) -> Array:
    """A number in [0, 1) per row, in steps of 2 ** -24, from its key and the position int32 [b] of its token."""
    bits = jax.vmap(lambda key, at: jax.random.bits(jax.random.fold_in(key, at)))(keys, positions)
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24)


def choose(logits: Array, numbers: Array, rule: Rule, draw: Draw) -> tuple[Array, Array, Array]:
    """The next token of each row.

    Args:
      logits: float32 [b, v]. numbers: float32 [b], see :func:`uniforms`.

    Returns:
      int32 [b]; its log-prob at the temperature (1 where greedy) among the words that are not banned, float32 [b]; and
      that under the truncated distribution which it was drawn from (0 where greedy: there is one word).
    """
    logits = jnp.where(draw.banned, -jnp.inf, logits)
    if not rule.greedy:
        logits = logits / draw.temperature
    top = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - top)
    if rule.greedy:
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        logps = _picked(logits - top, token) - jnp.log(jnp.sum(weights, axis=-1))
        return token, logps, jnp.zeros_like(logps)
    if not rule.truncated:
        token, total = inverse(weights, numbers)
        logps = _picked(logits - top, token) - jnp.log(total)
        return token, logps, logps
    token, kept = inverse(jnp.where(logits >= _threshold(logits, top, draw), weights, 0.0), numbers)
    relative = _picked(logits - top, token)
    return token, relative - jnp.log(jnp.sum(weights, axis=-1)), relative - jnp.log(kept)


def inverse(weights: Array, numbers: Array) -> tuple[Array, Array]:
    """The first word at which the sum of weights exceeds ``number`` times their total.

    The sums of chunks are searched first, then the words of one chunk. A word of weight 0 is never chosen.

    Args:
      weights: float32 [b, v], at least 0 and not all 0. numbers: float32 [b] in [0, 1).

    Returns:
      int32 [b], and the total float32 [b].
    """
    chunks = _chunks(weights)
    upto = jnp.cumsum(chunks.sum(axis=-1), axis=-1)
    total = upto[:, -1]
    target = numbers * total
    chunk = _first_above(upto, target)
    before = jnp.where(chunk > 0, _picked(upto, jnp.maximum(chunk - 1, 0)), 0.0)
    inside = jnp.take_along_axis(chunks, chunk[:, None, None], axis=1)[:, 0]
    word = _first_above(jnp.cumsum(inside, axis=-1), target - before)
    return chunk * chunks.shape[-1] + word, total


def _first_above(upto: Array, target: Array) -> Array:
    """int32 [b]: the first entry of increasing sums [b, n] above a target.

    Rounding can leave none; then the first that reaches the largest sum, where the last weight above 0 is.
    """
    above = upto > jnp.minimum(target, _below(upto[:, -1]))[:, None]
    return jnp.argmax(above, axis=-1).astype(jnp.int32)


def _below(x: Array) -> Array:
    """The next smaller float32."""
    return jnp.nextafter(x, jnp.float32(-jnp.inf))


def _threshold(logits: Array, top: Array, draw: Draw) -> Array:
    """The smallest logit that is kept [b, 1]: top-k, then top-p of what it leaves, then min-p. Equals are all kept."""
    ordered = -jnp.sort(-logits, axis=-1)
    index = jnp.arange(logits.shape[-1])
    weights = jnp.where(index < draw.top_k, jnp.exp(ordered - top), 0.0)
    upto = jnp.cumsum(weights, axis=-1)
    needed = (upto - weights < draw.top_p * upto[:, -1:]) & (index < draw.top_k)
    last = jnp.maximum(jnp.sum(needed, axis=-1), 1) - 1
    return jnp.maximum(_picked(ordered, last)[:, None], top + jnp.log(draw.min_p))


def _chunks(weights: Array) -> Array:
    """[b, v] → [b, chunks, words], with 0 after the vocabulary's end."""
    b, v = weights.shape
    size = min(_CHUNK, v)
    return jnp.pad(weights, ((0, 0), (0, round_up(v, size) - v))).reshape(b, -1, size)


def _picked(values: Array, index: Array) -> Array:
    """values[i, index[i]]."""
    return jnp.take_along_axis(values, index[:, None], axis=-1)[:, 0]
