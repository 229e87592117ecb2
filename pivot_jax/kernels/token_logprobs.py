"""Log-probs, entropy and accuracy of chosen tokens without ever holding [tokens, vocabulary] logits.

A loop over chunks of the vocabulary keeps a running log-sum-exp; the backward pass recomputes each chunk's logits. Each
chunk of the head's gradient is written once, so no float32 copy of the head is accumulated.

On a mesh every device loops over its own part of the vocabulary for its own tokens. Devices exchange four numbers per
token over ``tensor`` and, where ``fsdp`` splits the head's width, one chunk of the head at a time.

Letters: t tokens, d width, v vocabulary.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import PartitionSpec as P

from pivot_jax.kernels.dispatch import platform

Array = jax.Array
_CHUNK = {"cpu": 512}  # a chunk's logits stay in cache: 25 % faster on CPUs than 4096
_CHUNK_DEFAULT = 4096


@struct.dataclass
class TokenStats:
    """Per scored token, float32 [t]. Only ``logps`` carries gradients; the others are for metrics."""

    logps: Array  # log p(target)
    entropy: Array  # of the full distribution, nats
    correct: Array  # 1 where the target has the highest logit
    mean_logit: Array  # mean over the vocabulary


@dataclass(frozen=True)
class _Split:
    """Mesh axes over which tokens, vocabulary and width are split; none without a mesh."""

    tokens: tuple[str, ...] = ()
    vocabulary: str | None = None
    width: str | None = None

    @property
    def head(self) -> P:
        return P(self.vocabulary, self.width)


def token_logprobs(hidden: Array, head: Array, targets: Array, chunk: int = 0) -> TokenStats:
    """Statistics of ``softmax(hidden @ head.T)`` at ``targets``.

    Args:
      hidden: [t, d], compute dtype. head: [v, d]. targets: int32 [t], each in [0, v).
      chunk: vocabulary entries per step; temporaries are t * chunk float32. 0: the device's default.

    Raises:
      ValueError: shapes that do not fit.
    """
    if hidden.ndim != 2 or head.ndim != 2 or hidden.shape[1] != head.shape[1] or targets.shape != hidden.shape[:1]:
        shapes = f"{hidden.shape}, {head.shape} and {targets.shape}"
        raise ValueError(f"token_logprobs needs hidden [t,d], head [v,d] and targets [t]; got {shapes}")
    chunk = chunk or _CHUNK.get(platform(), _CHUNK_DEFAULT)
    logps, _, entropy, correct, mean_logit = _logprobs(_split(hidden, head), chunk, hidden, head, targets)
    stop = jax.lax.stop_gradient
    return TokenStats(logps, stop(entropy), stop(correct), stop(mean_logit))


def _split(hidden: Array, head: Array) -> _Split:
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {} if mesh.empty else {a: n for a, n in zip(mesh.axis_names, mesh.axis_sizes, strict=True) if n > 1}
    tokens = tuple(a for a in ("data", "fsdp") if a in sizes)
    if hidden.shape[0] % math.prod(sizes[a] for a in tokens):
        tokens = ()
    vocabulary = "tensor" if head.shape[0] % sizes.get("tensor", head.shape[0] + 1) == 0 else None
    width = "fsdp" if head.shape[1] % sizes.get("fsdp", head.shape[1] + 1) == 0 else None
    return _Split(tokens, vocabulary, width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _logprobs(split: _Split, chunk: int, hidden: Array, head: Array, targets: Array):
    """logps, lse, entropy, correct, mean_logit; float32 [t] each."""
    compute = functools.partial(_forward, split, chunk)
    tokens = P(split.tokens or None)
    return _per_shard(split, compute, (tokens, split.head, tokens), (tokens,) * 5)(hidden, head, targets)


def _logprobs_fwd(split, chunk, hidden, head, targets):
    out = _logprobs(split, chunk, hidden, head, targets)
    return out, (hidden, head, targets, out[1])


def _logprobs_bwd(split, chunk, residuals, cotangents):
    hidden, head, targets, lse = residuals
    compute = functools.partial(_backward, split, chunk)
    tokens = P(split.tokens or None)
    run = _per_shard(split, compute, (tokens, split.head, tokens, tokens, tokens), (tokens, split.head))
    return *run(hidden, head, targets, lse, cotangents[0]), np.zeros(targets.shape, jax.dtypes.float0)


_logprobs.defvjp(_logprobs_fwd, _logprobs_bwd)


def _per_shard(split: _Split, compute: Any, in_specs: Any, out_specs: Any) -> Any:
    if split == _Split():
        return compute
    return jax.shard_map(compute, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _forward(split: _Split, chunk: int, hidden: Array, head: Array, targets: Array):
    chunks = _Chunks(split, chunk, head, hidden.dtype)
    local = targets - chunks.first  # indices into this device's part of the vocabulary

    def step(carry, index):
        top, total, weighted, picked, summed = carry
        logits, start, fresh, _ = chunks.logits(hidden, index)
        new_top = jnp.maximum(top, jnp.max(logits, axis=1))
        scale = jnp.exp(top - new_top)
        exp = jnp.exp(logits - new_top[:, None])
        finite = jnp.where(fresh, logits, 0.0)  # -inf * 0 would be NaN
        column = local - start
        here = (local >= index * chunks.size) & (column < chunks.size)
        found = jnp.take_along_axis(logits, jnp.clip(column, 0, chunks.size - 1)[:, None], axis=1)[:, 0]
        return (
            new_top,
            total * scale + jnp.sum(exp, axis=1),
            weighted * scale + jnp.sum(exp * finite, axis=1),
            jnp.where(here, found, picked),
            summed + jnp.sum(finite, axis=1),
        ), None

    zero = jnp.zeros(hidden.shape[0], jnp.float32)
    first = (jnp.full_like(zero, -jnp.inf), zero, zero, zero, zero)
    (top, total, weighted, picked, summed), _ = jax.lax.scan(step, first, jnp.arange(chunks.count))
    vocabulary = head.shape[0]
    if split.vocabulary:
        everywhere = functools.partial(jax.lax.psum, axis_name=split.vocabulary)
        peak = jax.lax.pmax(top, split.vocabulary)
        fade = jnp.exp(top - peak)
        mine = (local >= 0) & (local < vocabulary)
        total, weighted = everywhere(total * fade), everywhere(weighted * fade)
        top, picked, summed = peak, everywhere(jnp.where(mine, picked, 0.0)), everywhere(summed)
        vocabulary *= jax.lax.axis_size(split.vocabulary)
    lse = top + jnp.log(total)
    return picked - lse, lse, lse - weighted / total, (picked >= top).astype(jnp.float32), summed / vocabulary


def _backward(split: _Split, chunk: int, hidden: Array, head: Array, targets: Array, lse: Array, d_logps: Array):
    chunks = _Chunks(split, chunk, head, hidden.dtype)
    local = targets - chunks.first  # indices into this device's part of the vocabulary

    def step(d_hidden, index):
        logits, start, fresh, rows = chunks.logits(hidden, index)
        # d logp / d logits = onehot - softmax
        onehot = (start + jnp.arange(chunks.size) == local[:, None]) & fresh
        d_logits = (onehot - jnp.exp(logits - lse[:, None])) * d_logps[:, None]
        d_logits = d_logits.astype(hidden.dtype)
        d_hidden += jnp.einsum("tv,vd->td", d_logits, rows, preferred_element_type=jnp.float32)
        d_rows = jnp.einsum("tv,td->vd", d_logits, hidden, preferred_element_type=jnp.float32)
        return d_hidden, chunks.reduced(d_rows).astype(head.dtype)

    d_hidden, d_chunks = jax.lax.scan(step, jnp.zeros(hidden.shape, jnp.float32), jnp.arange(chunks.count))
    if split.vocabulary:
        d_hidden = jax.lax.psum(d_hidden, split.vocabulary)
    return d_hidden.astype(hidden.dtype), chunks.joined(d_chunks)


class _Chunks:
    """This device's rows of the head, ``size`` at a time; ``first`` is the vocabulary index of its first row."""

    def __init__(self, split: _Split, chunk: int, head: Array, dtype: Any):
        self.split, self.head, self.dtype = split, head, dtype
        self.size = min(chunk, head.shape[0])
        self.count = -(-head.shape[0] // self.size)
        self.first: Any = jax.lax.axis_index(split.vocabulary) * head.shape[0] if split.vocabulary else 0

    def logits(self, hidden: Array, index: Array) -> tuple[Array, Array, Array, Array]:
        """float32 logits [t, size], the chunk's first row, a mask [1, size] of entries new in this chunk, its rows.

        Entries of an earlier chunk are -inf: the last chunk is moved back to end at the vocabulary's end, which avoids
        a padded copy.
        """
        start = jnp.minimum(index * self.size, self.head.shape[0] - self.size)
        rows = jax.lax.dynamic_slice_in_dim(self.head, start, self.size).astype(self.dtype)
        if self.split.width:
            rows = jax.lax.all_gather(rows, self.split.width, axis=1, tiled=True)
        logits = jnp.einsum("td,vd->tv", hidden, rows, preferred_element_type=jnp.float32)
        fresh = (start + jnp.arange(self.size) >= index * self.size)[None, :]
        return jnp.where(fresh, logits, -jnp.inf), start, fresh, rows

    def reduced(self, d_rows: Array) -> Array:
        """A chunk's gradient [size, d], summed over the devices that hold other tokens, split as the head is."""
        split = self.split
        if split.width in split.tokens:
            d_rows = jax.lax.psum_scatter(d_rows, split.width, scatter_dimension=1, tiled=True)
        elif split.width:  # tokens are not split: every device has the whole sum
            width = self.head.shape[1]
            d_rows = jax.lax.dynamic_slice_in_dim(d_rows, jax.lax.axis_index(split.width) * width, width, axis=1)
        others = tuple(axis for axis in split.tokens if axis != split.width)
        return jax.lax.psum(d_rows, others) if others else d_rows

    def joined(self, chunks: Array) -> Array:
        """Stacked chunk gradients [count, size, d] → [v, d], without the masked overlap of the last one."""
        whole = chunks[: self.count - 1].reshape(-1, chunks.shape[2])
        return jnp.concatenate([whole, chunks[self.count - 1, self.size * self.count - self.head.shape[0] :]], axis=0)
