"""Attention of one new token per row to a cache in two parts: the row's own keys, and a prompt's that rows may share.

Letters: B prompts, n responses of each, b = B * n rows, h query heads, k key/value heads, g = h / k, c head width,
s slots of a part. Row i answers prompt i // n; n = 1 is ordinary generation.

A row attends to the first ``lengths`` slots of both parts, in one softmax. Later slots have no effect, even if they
hold NaN. A fully masked row returns zeros. Attention runs on each part separately, and the log-sum-exps combine the
results. The queries of all responses are thus multiplied with their prompt's keys in one product, and these are read
once per prompt.

The cache has heads before slots: a head's keys are then one contiguous matrix, as the products read them.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec as P

from pivot_jax.kernels import shards
from pivot_jax.kernels.attention_xla import MASKED
from pivot_jax.kernels.dispatch import select
from pivot_jax.kernels.tpu.decode import attend_tpu

Array = jax.Array


@struct.dataclass
class Part:
    """Keys and values of a number of rows."""

    keys: Array  # [rows, k, s, c]
    values: Array  # as keys
    lengths: Array  # int32 [rows]; slots that count, from the first


def decode_attention(q: Array, own: Part, prompt: Part, *, scale: float | None = None, backend: str = "auto") -> Array:
    """softmax(scale * q k^T) v over the visible slots of both parts.

    Args:
      q: [b, h, c], h a multiple of k.
      own: part of b rows. prompt: part of B rows, b a multiple of B; each may have any number of slots, including 0.
      scale: default c ** -0.5.
      backend: "auto", or a name of :data:`BACKENDS`.

    Returns:
      [b, h, c] in q's dtype. Softmax and accumulation are float32.

    Raises:
      ValueError: shapes or types that do not fit, an unknown backend, or a gradient: this is for inference only.
    """
    _check(q, own, prompt)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    compute = functools.partial(select("decode attention", backend, BACKENDS, AUTO), scale=float(scale))
    own, prompt = (_within_slots(part) for part in (own, prompt))
    return _without_gradient(functools.partial(_per_shard, compute), q, own, prompt)


def reference(q: Array, own: Part, prompt: Part, *, scale: float) -> Array:
    """Both parts side by side, dense, in float32 (float64 where inputs are); the reference of tests."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    b, h, c = q.shape
    n = b // prompt.lengths.shape[0]
    parts = []
    for part, times in ((prompt, n), (own, 1)):
        visible = jnp.arange(part.keys.shape[2])[None, :] < part.lengths[:, None]
        clean = [jnp.where(visible[:, None, :, None], x, 0).astype(wide) for x in (part.keys, part.values)]
        parts.append([jnp.repeat(x, times, axis=0) for x in (*clean, visible[:, None, :])])
    keys, values, seen = (jnp.concatenate(pair, axis=2) for pair in zip(*parts, strict=True))
    mask = seen[:, None]
    scores = jnp.einsum("bkgc,bksc->bkgs", q.reshape(b, keys.shape[1], -1, c).astype(wide), keys) * scale
    weights = jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1), 0.0)
    return jnp.einsum("bkgs,bksc->bkgc", weights, values).reshape(b, h, c).astype(q.dtype)


def attend_xla(q: Array, keys: Array, values: Array, lengths: Array, *, scale: float) -> tuple[Array, Array]:
    """Plain JAX form of :func:`pivot_jax.kernels.tpu.decode.attend_tpu`."""
    seen = jnp.arange(keys.shape[2])[None, :] < lengths[:, None]
    values = jnp.where(seen[:, None, :, None], values, 0)  # a weight of 0 does not remove NaN
    scores = jnp.einsum("rkmc,rksc->rkms", q, keys, preferred_element_type=jnp.float32) * scale
    scores = jnp.where(seen[:, None, None, :], scores, MASKED)
    top = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.where(seen[:, None, None, :], jnp.exp(scores - top), 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    alive = jnp.where(total > 0, total, 1.0)
    out = jnp.einsum("rkms,rksc->rkmc", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return out / alive, (top + jnp.log(alive))[..., 0]


_CHUNK = 128  # slots that attend_rows reads at a time; 64 and 256 were no faster in most cases on a CPU


def attend_rows(q: Array, keys: Array, values: Array, lengths: Array, *, scale: float) -> tuple[Array, Array]:
    """As :func:`attend_xla`, but a loop over rows and the chunks that each has filled.

    Its time depends on the sum of the lengths, not on rows times slots: a CPU that decodes rows of mixed lengths spends
    most of its time there.
    """
    rows, kv, m, c = q.shape
    if rows == 1 or keys.shape[2] <= _CHUNK:  # nothing to skip
        return attend_xla(q, keys, values, lengths, scale=scale)

    def row(i: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        def chunk(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            done, top, total, out = state
            start = jnp.minimum(done, keys.shape[2] - _CHUNK)  # dynamic_slice would move it without a word
            own, others = (jax.lax.dynamic_slice(x, (i, 0, start, 0), (1, kv, _CHUNK, c))[0] for x in (keys, values))
            slot = start + jnp.arange(_CHUNK)
            seen = (slot >= done) & (slot < lengths[i])
            scores = jnp.einsum("kmc,ksc->kms", q[i], own, preferred_element_type=jnp.float32) * scale
            scores = jnp.where(seen, scores, MASKED)
            higher = jnp.maximum(top, jnp.max(scores, axis=-1, keepdims=True))
            weights, kept = jnp.where(seen, jnp.exp(scores - higher), 0.0), jnp.exp(top - higher)
            others = jnp.where(seen[:, None], others, 0)  # a weight of 0 does not remove NaN
            more = jnp.einsum("kms,ksc->kmc", weights.astype(q.dtype), others, preferred_element_type=jnp.float32)
            return done + _CHUNK, higher, kept * total + jnp.sum(weights, -1, keepdims=True), kept * out + more

        blank = jnp.zeros((kv, m, 1), jnp.float32)
        first = jnp.int32(0), blank + MASKED, blank, jnp.zeros((kv, m, c), jnp.float32)
        _, top, total, out = jax.lax.while_loop(lambda state: state[0] < lengths[i], chunk, first)
        alive = jnp.where(total > 0, total, 1.0)
        return found[0].at[i].set(out / alive), found[1].at[i].set((top + jnp.log(alive))[..., 0])

    blank = jnp.zeros(q.shape, jnp.float32)
    return jax.lax.fori_loop(0, rows, row, (blank, blank[..., 0]))


def _within_slots(part: Part) -> Part:
    return Part(part.keys, part.values, jnp.clip(part.lengths, 0, part.keys.shape[2]).astype(jnp.int32))


def _in_parts(attend: Any, q: Array, own: Part, prompt: Part, *, scale: float) -> Array:
    """Both parts by ``attend``, with the queries of one row of the part and of one key/value head together."""
    b, h, c = q.shape
    kv, prompts = own.keys.shape[1], prompt.lengths.shape[0]
    n, g = b // prompts, h // kv
    outs, lses = [], []
    for part, times in ((prompt, n), (own, 1)):
        if part.keys.shape[2] == 0:
            continue
        rows = b // times
        folded = q.reshape(rows, times, kv, g, c).swapaxes(1, 2).reshape(rows, kv, times * g, c)
        out, lse = attend(folded, part.keys, part.values, part.lengths, scale=scale)
        outs.append(out.reshape(rows, kv, times, g, c).swapaxes(1, 2).reshape(b, h, c))
        lses.append(lse.reshape(rows, kv, times, g).swapaxes(1, 2).reshape(b, h, 1))
    if not outs:
        return jnp.zeros_like(q)
    # A part that is fully masked for a row has out 0 and lse MASKED, and thus weight 0. Where both parts are, both
    # weights are 1, and the sum is 0.
    top = functools.reduce(jnp.maximum, lses)
    weights = [jnp.exp(lse - top) for lse in lses]
    total = sum(out * weight for out, weight in zip(outs, weights, strict=True))
    return (total / sum(weights)).astype(q.dtype)


BACKENDS = {
    "xla": functools.partial(_in_parts, attend_xla),
    "xla_rows": functools.partial(_in_parts, attend_rows),
    "pallas_tpu": functools.partial(_in_parts, attend_tpu),
    "reference": reference,
}
AUTO = {"cpu": "xla_rows", "gpu": "xla", "tpu": "pallas_tpu"}


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _without_gradient(compute: Any, *arguments: Any) -> Array:
    return compute(*arguments)


@_without_gradient.defjvp
def _no_gradient(compute: Any, primals: Any, tangents: Any) -> Any:
    raise ValueError("decode_attention is for inference only: it has no gradient; train with kernels.attention")


def lay_out(keys: Array, prompts: int, heads: int) -> Array:
    """Keys or values [..., rows, k, s, c] split over the mesh as :func:`decode_attention` reads them.

    Call it on everything that is written to a cache. The partitioner would otherwise lay a cache out like the
    projection that computed it, which may split a head in two, and would gather it in every step.

    Args:
      prompts: of the cache. heads: query heads.
    """
    spec = cache_spec(prompts, heads, keys.shape[-3])
    return keys if spec is None else jax.lax.with_sharding_constraint(keys, P(*[None] * (keys.ndim - 4), *spec))


def cache_spec(prompts: int, heads: int, kv_heads: int) -> P | None:
    """How :func:`lay_out` splits [rows, k, s, c] over the mesh that is set; None: it does not."""
    split = _split(prompts, heads, kv_heads)
    return None if split.alone else P(split.rows, split.heads, None, None)


def _split(prompts: int, heads: int, kv_heads: int) -> shards.Split:
    """The split of rows by whole prompts with their responses.

    Heads are not split where there are fewer key/value heads than tensor shards. Repeating them would copy the cache in
    every step, which costs more than reading all of it on each shard.
    """
    split = shards.split(prompts, heads, kv_heads)
    return split if split.repeat == 1 else shards.Split(split.rows, None, 1)


def _per_shard(compute: Any, q: Array, own: Part, prompt: Part) -> Array:
    """Runs ``compute`` on each device's rows and heads where a mesh is set; without a mesh, directly."""
    split = _split(prompt.lengths.shape[0], q.shape[1], own.keys.shape[1])
    if split.alone:
        return compute(q, own, prompt)
    keys = P(split.rows, split.heads, None, None)
    part: Any = Part(keys, keys, P(split.rows))  # type: ignore[arg-type]
    queries = P(split.rows, split.heads, None)
    in_specs = (queries, part, part)
    return jax.shard_map(compute, in_specs=in_specs, out_specs=queries, check_vma=False)(q, own, prompt)


def _check(q: Array, own: Part, prompt: Part) -> None:
    if q.ndim != 3:
        raise ValueError(f"decode_attention needs q [b,h,c]; got {q.shape}")
    for name, part in (("own", own), ("prompt", prompt)):
        shape = part.keys.shape
        if len(shape) != 4 or part.values.shape != shape:
            got = f"{shape} and {part.values.shape}"
            raise ValueError(f"decode_attention needs {name} keys and values [rows,k,s,c]; got {got}")
        if part.lengths.shape != shape[:1]:
            raise ValueError(f"decode_attention: {name} lengths {part.lengths.shape} do not fit keys {shape}")
        if shape[3] != q.shape[2] or shape[1] != own.keys.shape[1]:
            raise ValueError(f"decode_attention: {name} keys {shape} do not fit q {q.shape} or the other part's heads")
        if {part.keys.dtype, part.values.dtype} != {q.dtype}:
            found = f"{part.keys.dtype} and {part.values.dtype}"
            raise ValueError(f"decode_attention: {name} keys and values are {found}, q is {q.dtype}")
    if q.shape[1] % own.keys.shape[1]:
        raise ValueError(
            f"decode_attention: {q.shape[1]} query heads are not a multiple of {own.keys.shape[1]} key heads"
        )
    prompts = prompt.lengths.shape[0]
    if own.lengths.shape[0] != q.shape[0] or not prompts or q.shape[0] % prompts:
        rows = f"{q.shape[0]} queries, {own.lengths.shape[0]} own rows and {prompts} prompts"
        raise ValueError(f"decode_attention: {rows}; it needs as many own rows as queries, and a multiple of prompts")
