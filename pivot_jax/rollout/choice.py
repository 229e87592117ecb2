"""Which token comes next: temperature, truncation and banned ids, and one uniform number per token.

A token is the inverse of the distribution function at that number, over the vocabulary in the order of its ids. Noise
for each word of the vocabulary (Gumbel) draws from the same distribution and costs several times as much.

Letters: b rows, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
    """The part of a sampling that a program is compiled for.

    Attributes:
      greedy: all rows are.
      top_p, top_k, min_p: whether the distribution is truncated by these.
      mixed: every row has numbers of its own, and those of temperature 0 are greedy.
      alternatives: of each token also the log-probs of this many most likely words (:class:`Alternatives`); 0: none.
    """

    greedy: bool
    top_p: bool = False
    top_k: bool = False
    min_p: bool = False
    mixed: bool = False
    alternatives: int = 0

    @property
    def truncated(self) -> bool:
        return self.top_p or self.top_k or self.min_p


@struct.dataclass
class Draw:
    """The part of a sampling that may change without compiling anew; float32 [] unless stated otherwise.

    The first four are [b, 1] where rows have numbers of their own (:func:`draw_of_rows`).
    """

    temperature: Any
    top_p: Any
    top_k: Any  # int32; the vocabulary's size where all are kept
    min_p: Any
    banned: Any  # bool [v]
    ends: Any  # bool [v]; ids that end a response
    seed: Any  # uint32 [2]; of the run, and the number of the rollout


class Alternatives(NamedTuple):
    """Log-probs under the model's own distribution (temperature 1), whatever a token was drawn from.

    A token that is the most likely word has exactly the first of ``top_logps``.
    """

    logps: Any  # float32 [b]; of the token
    top: Any  # int32 [b, a]; the most likely words, in order
    top_logps: Any  # float32 [b, a]


def rule_of(sampling: Sampling) -> Rule:
    if sampling.temperature == 0:
        return Rule(greedy=True)
    return Rule(False, sampling.top_p < 1, sampling.top_k > 0, sampling.min_p > 0)


def rule_of_rows(samplings: Sequence[Sampling], alternatives: int = 0) -> Rule:
    """One rule for rows that are sampled differently: what any of them needs."""
    rules = [rule_of(sampling) for sampling in samplings]
    if all(rule.greedy for rule in rules):
        return Rule(greedy=True, alternatives=alternatives)
    needed = {name: any(getattr(rule, name) for rule in rules) for name in ("top_p", "top_k", "min_p")}
    return Rule(False, **needed, mixed=True, alternatives=alternatives)


def draw_of(sampling: Sampling, vocabulary: int, seed: tuple[int, int]) -> Draw:
    """On the host. ``vocabulary``: v, the rows of the head matrix."""
    return Draw(
        temperature=np.float32(sampling.temperature),
        top_p=np.float32(sampling.top_p),
        top_k=np.int32(min(sampling.top_k or vocabulary, vocabulary)),
        min_p=np.float32(sampling.min_p),
        banned=_chosen(sampling.banned_ids, vocabulary),
        ends=_chosen(sampling.stop_ids, vocabulary),
        seed=np.asarray([part % 2**32 for part in seed], np.uint32),
    )


def draw_of_rows(samplings: Sequence[Sampling], shared: Draw) -> Draw:
    """``shared`` (its ids and seed) with the numbers of every row."""
    vocabulary = len(shared.banned)

    def column(values: list[float], dtype: Any) -> np.ndarray:
        return np.asarray(values, dtype)[:, None]

    return replace(
        shared,
        temperature=column([one.temperature for one in samplings], np.float32),
        top_p=column([one.top_p for one in samplings], np.float32),
        top_k=column([min(one.top_k or vocabulary, vocabulary) for one in samplings], np.int32),
        min_p=column([one.min_p for one in samplings], np.float32),
    )


def _chosen(ids: Sequence[int], vocabulary: int) -> np.ndarray:
    found = np.zeros(vocabulary, bool)
    found[list(ids)] = True
    return found


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
    if rule.mixed:
        return _mixed(logits, numbers, rule, draw)
    if not rule.greedy:
        logits = logits / draw.temperature
    return _chosen_of_scaled(logits, numbers, rule, draw)


def _mixed(logits: Array, numbers: Array, rule: Rule, draw: Draw) -> tuple[Array, Array, Array]:
    """:func:`choose` where some rows are greedy: their temperature is 0."""
    greedy = draw.temperature == 0
    scaled = logits / jnp.where(greedy, 1.0, draw.temperature)
    drawn = _chosen_of_scaled(scaled, numbers, rule, draw)
    best = _chosen_of_scaled(scaled, numbers, Rule(greedy=True), draw)
    token, logps, sampling_logps = (jnp.where(greedy[:, 0], a, b) for a, b in zip(best, drawn, strict=True))
    return token, logps, sampling_logps


def _chosen_of_scaled(logits: Array, numbers: Array, rule: Rule, draw: Draw) -> tuple[Array, Array, Array]:
    """:func:`choose` from logits at the temperature, without banned words."""
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
    token, kept = inverse(_truncated(logits, weights, rule, draw), numbers)
    relative = _picked(logits - top, token)
    return token, relative - jnp.log(jnp.sum(weights, axis=-1)), relative - jnp.log(kept)


def alternatives(logits: Array, token: Array, banned: Array, count: int) -> Alternatives:
    """The log-prob of each row's token int32 [b] and of the ``count`` most likely words, from logits float32 [b, v]."""
    logps = jax.nn.log_softmax(jnp.where(banned, -jnp.inf, logits), axis=-1)
    top_logps, top = jax.lax.top_k(logps, count)
    return Alternatives(_picked(logps, token), top, top_logps)


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


def _truncated(logits: Array, weights: Array, rule: Rule, draw: Draw) -> Array:
    """Weights [b, v] with 0 for words that are left out: by top-k, then by top-p of what it keeps, then by min-p.

    Words as likely as the last one that is kept are kept too.
    """
    order = _order(logits)
    if rule.top_k:
        weights = jnp.where(order >= _smallest(order, jnp.ones_like(weights), draw.top_k), weights, 0.0)
    if rule.top_p:
        needed = draw.top_p * jnp.sum(weights, axis=-1, keepdims=True)
        weights = jnp.where(order >= _smallest(order, weights, needed), weights, 0.0)
    if rule.min_p:
        weights = jnp.where(weights >= draw.min_p, weights, 0.0)  # the largest weight is 1
    return weights


def _order(values: Array) -> Array:
    """int32 that are ordered as the float32 values."""
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _smallest(order: Array, weights: Array, needed: Array) -> Array:
    """The largest int32 [b, 1] such that the weights of the words at or above it add up to what is needed.

    Found bit by bit: 32 sums over the vocabulary take a fraction of the time of sorting it.
    """
    first = jnp.full_like(order[:, :1], jnp.iinfo(jnp.int32).min)

    def one(index: Array, found: Array) -> Array:
        # Adding the highest bit to the smallest number wraps to 0, as it should.
        larger = found + (jnp.int32(1) << (31 - index))
        enough = jnp.sum(jnp.where(order >= larger, weights, 0.0), axis=-1, keepdims=True) >= needed
        return jnp.where(enough, larger, found)

    return jax.lax.fori_loop(0, 32, one, first)


def _chunks(weights: Array) -> Array:
    """[b, v] → [b, chunks, words], with 0 after the vocabulary's end."""
    b, v = weights.shape
    size = min(_CHUNK, v)
    return jnp.pad(weights, ((0, 0), (0, round_up(v, size) - v))).reshape(b, -1, size)


def _picked(values: Array, index: Array) -> Array:
    """values[i, index[i]]."""
    return jnp.take_along_axis(values, index[:, None], axis=-1)[:, 0]
