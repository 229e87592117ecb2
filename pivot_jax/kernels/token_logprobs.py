"""Log-probs, entropy and accuracy of chosen tokens without ever holding [tokens, vocabulary] logits.

A loop over chunks of the vocabulary keeps a running log-sum-exp; the backward pass recomputes each chunk's logits. Each
chunk of the head's gradient is written once, so no float32 copy of the head is accumulated.

The distribution may be one that responses are sampled from: logits divided by a temperature, and tokens that can never
be sampled left out (:class:`Distribution`).

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


@dataclass(frozen=True)
class Distribution:
    """Which distribution of the logits z a token comes from: softmax(z / temperature) without the banned tokens.

    Attributes:
      temperature: above 0.
      banned_ids: tokens of probability 0, such as the image token. One of them as a target has the log-prob -inf.
    """

    temperature: float = 1.0
    banned_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"Distribution: temperature {self.temperature} is not above 0")
        object.__setattr__(self, "banned_ids", tuple(sorted(set(self.banned_ids))))


PLAIN = Distribution()


@struct.dataclass
class TokenStats:
    """Per scored token, float32 [t]. ``logps`` carries gradients, and ``entropy`` where asked for; the rest is metrics.

    Logits are those that the distribution is the softmax of: divided by the temperature, without banned tokens.
    """

    logps: Array  # log p(target)
    entropy: Array  # of the full distribution, nats
    correct: Array  # 1 where the target has the highest logit
    mean_logit: Array  # mean over the vocabulary
    log_sum_sq: Array | None = None  # log Σ p² over the vocabulary, where asked for


@dataclass(frozen=True)
class _Split:
    """Mesh axes over which tokens, vocabulary and width are split; none without a mesh."""

    tokens: tuple[str, ...] = ()
    vocabulary: str | None = None
    width: str | None = None

    @property
    def head(self) -> P:
        return P(self.vocabulary, self.width)


@dataclass(frozen=True)
class _Method:
    """What the loop over the vocabulary is compiled for."""

    split: _Split
    chunk: int
    distribution: Distribution
    entropy_gradient: bool
    squares: bool  # log Σ p² is a sixth output

    @property
    def outputs(self) -> int:
        return 6 if self.squares else 5


def token_logprobs(
    hidden: Array,
    head: Array,
    targets: Array,
    chunk: int = 0,
    distribution: Distribution = PLAIN,
    *,
    entropy_gradient: bool = False,
    squares: bool = False,
) -> TokenStats:
    """Statistics of ``softmax(hidden @ head.T)`` at ``targets``.

    Args:
      hidden: [t, d], compute dtype. head: [v, d]. targets: int32 [t], each in [0, v).
      chunk: vocabulary entries per step; temporaries are t * chunk float32. 0: the device's default.
      distribution: temperature and banned tokens.
      entropy_gradient: ``entropy`` carries gradients too (for an entropy bonus).
      squares: ``log_sum_sq`` too (for the weights of WPO).

    Raises:
      ValueError: shapes that do not fit, or a banned token outside the vocabulary.
    """
    if hidden.ndim != 2 or head.ndim != 2 or hidden.shape[1] != head.shape[1] or targets.shape != hidden.shape[:1]:
        shapes = f"{hidden.shape}, {head.shape} and {targets.shape}"
        raise ValueError(f"token_logprobs needs hidden [t,d], head [v,d] and targets [t]; got {shapes}")
    banned = distribution.banned_ids
    if banned and not 0 <= banned[0] <= banned[-1] < head.shape[0]:
        raise ValueError(f"token_logprobs: banned ids {banned} are not all in the vocabulary of {head.shape[0]}")
    chunk = chunk or _CHUNK.get(platform(), _CHUNK_DEFAULT)
    method = _Method(_split(hidden, head), chunk, distribution, entropy_gradient, squares)
    logps, _, entropy, *rest = _logprobs(method, hidden, head, targets)
    stop = jax.lax.stop_gradient
    return TokenStats(logps, entropy if entropy_gradient else stop(entropy), *map(stop, rest))


def _split(hidden: Array, head: Array) -> _Split:
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {} if mesh.empty else {a: n for a, n in zip(mesh.axis_names, mesh.axis_sizes, strict=True) if n > 1}
    tokens = tuple(a for a in ("data", "fsdp") if a in sizes)
    if hidden.shape[0] % math.prod(sizes[a] for a in tokens):
        tokens = ()
    vocabulary = "tensor" if head.shape[0] % sizes.get("tensor", head.shape[0] + 1) == 0 else None
    width = "fsdp" if head.shape[1] % sizes.get("fsdp", head.shape[1] + 1) == 0 else None
    return _Split(tokens, vocabulary, width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logprobs(method: _Method, hidden: Array, head: Array, targets: Array):
    """logps, lse, entropy, correct, mean_logit and, where asked for, log Σ p²; float32 [t] each."""
    split, tokens = method.split, P(method.split.tokens or None)
    compute = functools.partial(_forward, method)
    return _per_shard(split, compute, (tokens, split.head, tokens), (tokens,) * method.outputs)(hidden, head, targets)


def _logprobs_fwd(method, hidden, head, targets):
    out = _logprobs(method, hidden, head, targets)
    return out, (hidden, head, targets, out[1], out[2] if method.entropy_gradient else None)


def _logprobs_bwd(method, residuals, cotangents):
    hidden, head, targets, lse, entropy = residuals
    split, tokens = method.split, P(method.split.tokens or None)
    values = [lse, cotangents[0], *((entropy, cotangents[2]) if method.entropy_gradient else ())]
    compute = functools.partial(_backward, method)
    specs = (tokens, split.head, tokens) + (tokens,) * len(values)
    run = _per_shard(split, compute, specs, (tokens, split.head))
    return *run(hidden, head, targets, *values), np.zeros(targets.shape, jax.dtypes.float0)


_logprobs.defvjp(_logprobs_fwd, _logprobs_bwd)


def _per_shard(split: _Split, compute: Any, in_specs: Any, out_specs: Any) -> Any:
    if split == _Split():
        return compute
    return jax.shard_map(compute, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _forward(method: _Method, hidden: Array, head: Array, targets: Array):
    split, chunks = method.split, _Chunks(method, head, hidden.dtype)
    local = targets - chunks.first  # indices into this device's part of the vocabulary

    def step(carry, index):
        top, total, weighted, picked, summed, *squared = carry
        logits, start, live, _ = chunks.logits(hidden, index)
        new_top = jnp.maximum(top, jnp.max(logits, axis=1))
        scale = jnp.exp(top - new_top)
        exp = jnp.exp(logits - new_top[:, None])
        finite = jnp.where(live, logits, 0.0)  # -inf * 0 would be NaN
        column = local - start
        here = (local >= index * chunks.size) & (column < chunks.size)
        found = jnp.take_along_axis(logits, jnp.clip(column, 0, chunks.size - 1)[:, None], axis=1)[:, 0]
        return (
            new_top,
            total * scale + jnp.sum(exp, axis=1),
            weighted * scale + jnp.sum(exp * finite, axis=1),
            jnp.where(here, found, picked),
            summed + jnp.sum(finite, axis=1),
            *(x * scale**2 + jnp.sum(exp**2, axis=1) for x in squared),
        ), None

    zero = jnp.zeros(hidden.shape[0], jnp.float32)
    lowest = jnp.finfo(jnp.float32).min  # not -inf: a chunk of banned tokens alone has no finite logit
    first = (jnp.full_like(zero, lowest), *(zero,) * (method.outputs - 1))
    (top, total, weighted, picked, summed, *squared), _ = jax.lax.scan(step, first, jnp.arange(chunks.count))
    vocabulary = head.shape[0]
    if split.vocabulary:
        everywhere = functools.partial(jax.lax.psum, axis_name=split.vocabulary)
        peak = jax.lax.pmax(top, split.vocabulary)
        fade = jnp.exp(top - peak)
        mine = (local >= 0) & (local < vocabulary)
        total, weighted = everywhere(total * fade), everywhere(weighted * fade)
        squared = [everywhere(x * fade**2) for x in squared]
        top, picked, summed = peak, everywhere(jnp.where(mine, picked, 0.0)), everywhere(summed)
        vocabulary *= jax.lax.axis_size(split.vocabulary)
    vocabulary -= len(method.distribution.banned_ids)
    lse = top + jnp.log(total)
    squares = (jnp.log(x) - 2 * jnp.log(total) for x in squared)
    correct = (picked >= top).astype(jnp.float32)
    return picked - lse, lse, lse - weighted / total, correct, summed / vocabulary, *squares


def _backward(
    method: _Method,
    hidden: Array,
    head: Array,
    targets: Array,
    lse: Array,
    d_logps: Array,
    entropy: Array | None = None,
    d_entropy: Array | None = None,
):
    split, chunks = method.split, _Chunks(method, head, hidden.dtype)
    local = targets - chunks.first  # indices into this device's part of the vocabulary

    def step(d_hidden, index):
        logits, start, live, rows = chunks.logits(hidden, index)
        # d logp / d logits = onehot - softmax
        onehot = (start + jnp.arange(chunks.size) == local[:, None]) & live
        softmax = jnp.exp(logits - lse[:, None])
        d_logits = (onehot - softmax) * d_logps[:, None]
        if entropy is not None and d_entropy is not None:
            # d entropy / d logits = -softmax * (log softmax + entropy)
            log_softmax = jnp.where(live, logits - lse[:, None], 0.0)
            d_logits -= softmax * (log_softmax + entropy[:, None]) * d_entropy[:, None]
        if method.distribution.temperature != 1:
            d_logits /= method.distribution.temperature
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

    def __init__(self, method: _Method, head: Array, dtype: Any):
        self.split, self.distribution, self.head, self.dtype = method.split, method.distribution, head, dtype
        split = method.split
        self.size = min(method.chunk, head.shape[0])
        self.count = -(-head.shape[0] // self.size)
        self.first: Any = jax.lax.axis_index(split.vocabulary) * head.shape[0] if split.vocabulary else 0

    def logits(self, hidden: Array, index: Array) -> tuple[Array, Array, Array, Array]:
        """float32 logits [t, size], the chunk's first row, a mask [1, size] of its live entries, its rows.

        Banned tokens and entries of an earlier chunk are not live, and -inf: the last chunk is moved back to end at the
        vocabulary's end, which avoids a padded copy.
        """
        start = jnp.minimum(index * self.size, self.head.shape[0] - self.size)
        rows = jax.lax.dynamic_slice_in_dim(self.head, start, self.size).astype(self.dtype)
        if self.split.width:
            rows = jax.lax.all_gather(rows, self.split.width, axis=1, tiled=True)
        logits = jnp.einsum("td,vd->tv", hidden, rows, preferred_element_type=jnp.float32)
        if self.distribution.temperature != 1:
            logits /= self.distribution.temperature
        entries = start + jnp.arange(self.size)
        live = (entries >= index * self.size)[None, :]
        if self.distribution.banned_ids:
            live &= ~jnp.isin(entries + self.first, jnp.asarray(self.distribution.banned_ids))[None, :]
        return jnp.where(live, logits, -jnp.inf), start, live, rows

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
