"""The sampler's compiled programs: prompts are read, put into slots, and continued by a block of tokens.

Letters: S slots, r prompts, t steps of a block, s cached tokens, d width, v vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from pivot_jax.kernels.decode import lay_out
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.language_model import LanguageModel
from pivot_jax.rollout import cache as caches
from pivot_jax.rollout.cache import Cache, Weights
from pivot_jax.rollout.choice import Alternatives, Draw, Rule, alternatives, choose, row_keys, uniforms

Array = jax.Array


@struct.dataclass
class Rows:
    """What is in each slot, kept by the host; int32 [S] unless stated otherwise. A free slot has zeros."""

    active: Any  # bool [S]
    lengths: Any  # cached tokens
    positions: Any  # rotary position of the next token, with M-RoPE on all its axes
    counts: Any  # tokens of the response so far
    limits: Any  # the most that it may have
    prompts: Any  # uint32 [S]; numbers of prompt and response, for the random numbers
    responses: Any  # uint32 [S]


class Block(NamedTuple):
    """Tokens of a block of steps."""

    tokens: Any  # int32 [S, t]; of each row the first ones up to its new count
    logps: Any  # float32 [S, t]
    sampling_logps: Any  # float32 [S, t]
    counts: Any  # int32 [S]; as in Rows, after the block
    active: Any  # bool [S]; False also where the row ended in this block
    alternatives: Alternatives | None = None  # of every token, with a further axis t: [S, t] and [S, t, a]


@partial(jax.jit, static_argnums=0)
def read(model: LanguageModel, weights: Weights, batch: Any) -> tuple[Cache, Array]:
    """See :func:`cache.read_prompts`."""
    return caches.read_prompts(model, weights, batch)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def empty(config: DecoderConfig, dtype: str, rows: int, size: int) -> tuple[Cache, Array]:
    """A cache without tokens, and states [S, d]."""
    return caches.empty_cache(config, dtype, rows, size), jnp.zeros((rows, config.width), dtype)


@partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def insert(
    config: DecoderConfig, cache: Cache, states: Array, prompts: Cache, prompt_states: Array, sources: Array
) -> tuple[Cache, Array]:
    """Puts prompts into slots: the same prompt into as many as it has responses.

    Args:
      prompts, prompt_states: of r prompts, from :func:`read`; at most as many tokens as the cache has.
      sources: int32 [S]; the prompt of each slot, -1 where the slot keeps what it has.
    """
    taken, new = jnp.maximum(sources, 0), sources >= 0

    def one(old: Array, prompt: Array) -> Array:
        size = prompt.shape[2]
        mixed = jnp.where(new[:, None, None, None], jnp.take(prompt, taken, axis=0), old[:, :, :size])
        return lay_out(old.at[:, :, :size].set(mixed), old.shape[0], config.heads)

    mixed = jnp.where(new[:, None], jnp.take(prompt_states, taken, axis=0), states)
    return jax.tree.map(one, cache, prompts), mixed


@partial(jax.jit, static_argnums=(0, 2))
def resize(config: DecoderConfig, cache: Cache, size: int) -> Cache:
    """The cache with slots for ``size`` tokens per row: the first ones of the old, zeros after them."""

    def one(old: Array) -> Array:
        if size <= old.shape[2]:
            return lay_out(old[:, :, :size], old.shape[0], config.heads)
        return lay_out(jnp.pad(old, ((0, 0), (0, 0), (0, size - old.shape[2]), (0, 0))), old.shape[0], config.heads)

    return jax.tree.map(one, cache)


class _Step(NamedTuple):
    """State of the loop over a block's steps."""

    step: Array
    own: Cache
    states: Array
    out: Block


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(4, 5))
def decode(
    model: LanguageModel, rule: Rule, steps: int, weights: Weights, cache: Cache, states: Array, rows: Rows, draw: Draw
) -> tuple[Cache, Array, Block]:
    """``steps`` tokens for each active row, or as many as the longest of them takes to its end.

    Args:
      cache: with at least ``steps`` free slots after each row's tokens.
      states: [S, d], which predict the next tokens.

    Returns:
      Cache and states after the block, and its tokens. A row that is still active has ``steps`` more tokens in both.
    """
    config, dtype = model.config.decoder, model.config.dtype
    slots = rows.active.shape[0]
    keys = row_keys(draw.seed, rows.prompts, rows.responses)

    def with_alternatives(state: _Step, logits: Array, token: Array) -> Any:
        if not rule.alternatives:
            return None
        found = alternatives(logits, token, draw.banned, rule.alternatives)
        return jax.tree.map(lambda all_, new: all_.at[:, state.step].set(new), state.out.alternatives, found)

    def one(state: _Step) -> _Step:
        out = state.out
        logits = jnp.einsum("bd,vd->bv", state.states, weights.head, preferred_element_type=jnp.float32)
        token, logp, sampling_logp = choose(logits, uniforms(keys, out.counts), rule, draw)
        counts = out.counts + out.active
        out = Block(
            tokens=out.tokens.at[:, state.step].set(token),
            logps=out.logps.at[:, state.step].set(logp),
            sampling_logps=out.sampling_logps.at[:, state.step].set(sampling_logp),
            counts=counts,
            active=out.active & ~draw.ends[token] & (counts < rows.limits),
            alternatives=with_alternatives(state, logits, token),
        )
        x = jnp.take(weights.inputs["decoder"]["embed"], token, axis=0), rows.positions + state.step
        own, states = caches.read_token(config, weights, cache, rows.lengths, state.own, state.step, x)
        return _Step(state.step + 1, own, states, out)

    blank = jnp.zeros((slots, steps), jnp.float32)
    out = Block(blank.astype(jnp.int32), blank, blank, rows.counts, rows.active)
    if rule.alternatives:
        many = jnp.zeros((slots, steps, rule.alternatives), jnp.float32)
        out = out._replace(alternatives=Alternatives(blank, many.astype(jnp.int32), many))
    own = caches.empty_cache(config, dtype, slots, steps)
    first = _Step(jnp.int32(0), own, states, out)
    last = jax.lax.while_loop(lambda state: (state.step < steps) & jnp.any(state.out.active), one, first)
    return caches.append(config, cache, rows.lengths, last.own), last.states, last.out
