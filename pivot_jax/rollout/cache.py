"""The model as the sampler runs it: weights layer by layer, and keys and values of a layer as arrays of their own.

Stacked weights would be sliced in every step, and a cache of all layers in one array would be copied. Layers are a
Python loop in the compiled program.

Letters: b rows, S slots (rows of the cache), r prompts, l layers, n tokens, k key/value heads, s cached tokens, c head
width, d width, v vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from pivot_jax.kernels.decode import Part, lay_out
from pivot_jax.kernels.mask import Ids
from pivot_jax.models import layers as arithmetic
from pivot_jax.models import stacking
from pivot_jax.models.decoder import DecoderBlock, DecoderConfig, Past
from pivot_jax.models.language_model import LanguageModel, head_matrix

Array = jax.Array
_CACHE = arithmetic.Collect(cache=True)


@struct.dataclass
class Weights:
    """Parameters as decoding reads them."""

    inputs: Any  # all parameters but the decoder's blocks, as the model's ``embed`` reads them
    layers: tuple[Any, ...]  # parameters of each decoder block, in the compute dtype
    norm: Array
    head: Array  # [v, d], in the compute dtype


@struct.dataclass
class Cache:
    """Keys and values of each layer."""

    keys: tuple[Array, ...]  # l arrays [b, k, s, c]
    values: tuple[Array, ...]

    @property
    def size(self) -> int:
        """s."""
        return self.keys[0].shape[2]


def weights_of(model: LanguageModel, params: Any) -> Weights:
    """The parameters in the compute dtype, layers apart. Arrays that have this form already are used, not copied.

    ShapeDtypeStruct give those of the result. Blocks may be stacked on a layer axis or apart, as ``models.stacking``
    says.
    """
    config, dtype = model.config, jnp.dtype(model.config.dtype)
    decoder = dict(params["decoder"])
    blocks = stacking.per_layer({"decoder": {"blocks": _arrays(decoder.pop("blocks"), dtype)}})["decoder"]["blocks"]
    decoder = _arrays(decoder, dtype)
    rest = {name: _arrays(part, None) for name, part in params.items() if name != "decoder"}
    return Weights(
        inputs=rest | {"decoder": decoder},
        layers=tuple(stacking.layer(blocks, i) for i in range(config.decoder.depth)),
        norm=decoder["norm"]["scale"],
        head=head_matrix({"decoder": decoder}),
    )


def _arrays(tree: Any, dtype: Any) -> Any:
    """The leaves as arrays on the device, in ``dtype`` (None: their own)."""

    def one(x: Any) -> Any:
        if isinstance(x, (jax.Array, jax.ShapeDtypeStruct)) and x.dtype == (dtype or x.dtype):
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
        return _converted(x, dtype)

    return jax.tree.map(one, tree)


@partial(jax.jit, static_argnums=1)
def _converted(x: Any, dtype: Any) -> Array:
    return x.astype(dtype or x.dtype)


def empty_cache(config: DecoderConfig, dtype: Any, rows: int, size: int) -> Cache:
    """Zeros for ``rows`` rows of ``size`` tokens."""
    one = jnp.zeros((rows, config.kv_heads, size, config.head_width), dtype)
    parts = [tuple(lay_out(one, rows, config.heads) for _ in range(config.depth)) for _ in range(2)]
    return Cache(*parts)


def read_prompts(model: LanguageModel, weights: Weights, batch: Any) -> tuple[Cache, Array]:
    """Keys and values of right-padded prompts, and the state [r, d] that predicts the first token of a response."""
    config = model.config.decoder
    x: Any = model.apply({"params": weights.inputs}, batch, method="embed")
    angles, ids = config.angles(batch.positions, batch.segments), Ids.same(batch.segments)
    block: Any = DecoderBlock(config)
    found = []
    for layer in weights.layers:
        x, key_values = block.apply({"params": layer}, x, None, angles, ids, _CACHE)
        found.append(key_values)
    keys, values = zip(*found, strict=True)
    last = jnp.maximum(jnp.sum(batch.segments > 0, axis=1) - 1, 0)
    state = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
    return Cache(keys, values), arithmetic.rms_norm(state, weights.norm, config.eps)


def read_token(
    config: DecoderConfig, weights: Weights, before: Cache, lengths: Array, own: Cache, slot: Array, x: Any
) -> tuple[Cache, Array]:
    """One more token per row.

    Args:
      before: keys and values of the tokens before this block of steps; the first ``lengths`` [b] of each row count.
      own: those of this block, of which the first ``slot`` are filled.
      x: embedded token [b, d], and its rotary position int32 [b].

    Returns:
      ``own`` with the token, and its state [b, d].
    """
    x, positions = x
    here = positions[:, None]
    angles = config.angles(config.text_positions(here), jnp.ones_like(here))
    x, block, found = x[:, None], DecoderBlock(config), []
    for index, layer in enumerate(weights.layers):
        part = Part(before.keys[index], before.values[index], lengths)
        past = Past(own.keys[index], own.values[index], slot, part)
        x, key_values = block.apply({"params": layer}, x, past, angles, {}, _CACHE)
        found.append(key_values)
    keys, values = zip(*found, strict=True)
    return Cache(keys, values), arithmetic.rms_norm(x[:, 0], weights.norm, config.eps)


def append(config: DecoderConfig, before: Cache, lengths: Array, own: Cache) -> Cache:
    """``before`` with ``own`` after the first ``lengths`` tokens of each row."""

    def one(old: Array, new: Array) -> Array:
        put = jax.vmap(lambda row, add, at: jax.lax.dynamic_update_slice(row, add, (0, at, 0)))
        return lay_out(put(old, new, lengths), old.shape[0], config.heads)

    return jax.tree.map(one, before, own)
