"""The two layouts of the parameters of a stack of blocks: one array with a leading layer axis, or an array per layer.

Checkpoints, packs, imports and exports are stacked. The train state has a leaf per layer where layers are not scanned:
out of a stacked array an unrolled program would copy every layer in each step, and stack the gradients again. A
parameter has the same path in both layouts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from pivot_jax import rules


@jax.tree_util.register_pytree_with_keys_class
class Layers(tuple):
    """A parameter of a stack as one array per layer, without the layer axis; a node of the tree, as a tuple is.

    ``shape`` and ``dtype`` are those of the stacked array.
    """

    __slots__ = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self[0].shape)

    @property
    def dtype(self) -> Any:
        return self[0].dtype

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], None]:
        return [(jax.tree_util.SequenceKey(i), x) for i, x in enumerate(self)], None

    @classmethod
    def tree_unflatten(cls, _: None, layers: Any) -> Layers:
        return cls(layers)


def in_stack(path: str) -> bool:
    """Whether a parameter belongs to a stack of blocks, and has a layer axis where it is one array."""
    return "/blocks/" in path


def unscanned(towers: Mapping[str, Any]) -> frozenset[str]:
    """The parts whose layers are not scanned, of part → configuration (or None)."""
    return frozenset(name for name, tower in towers.items() if tower is not None and not tower.scan_layers)


def per_layer(params: Mapping[str, Any], towers: Collection[str] | None = None) -> dict[str, Any]:
    """Parameters with :class:`Layers` in the stacks of these parts of the model (None: of all).

    The leaves are arrays of devices (each layer becomes an array with the same sharding of its other axes), of the host
    (views, no copy), or ShapeDtypeStruct; or they are traced. :class:`Layers` stay as they are.
    """
    own = {
        path: split(leaf) if in_stack(path) and (towers is None or path.split("/")[0] in towers) else leaf
        for path, leaf in rules.flatten(params).items()
    }
    return rules.unflatten(own)


def layer(tree: Any, index: int) -> Any:
    """The parameters of one block: layer ``index`` of each parameter of a stack."""
    return jax.tree.map(lambda node: node[index], tree, is_leaf=_is_layers)


def has_layers(tree: Any) -> bool:
    """Whether any parameter of the tree has a leaf per layer."""
    return any(_is_layers(node) for node in jax.tree.leaves(tree, is_leaf=_is_layers))


def stacked(tree: Any) -> Any:
    """Any tree with its :class:`Layers` as single arrays: the inverse of :func:`per_layer`."""
    return _map_layers(join, tree)


def on_host(tree: Any) -> Any:
    """As :func:`stacked`, in host memory: on the devices there may be no space for a second copy of a train state.

    Arrays that are distributed over several processes stay on their devices.
    """

    def copy(layers: Layers) -> Any:
        addressable = all(getattr(layer, "is_fully_addressable", True) for layer in layers)
        return np.stack([np.asarray(layer) for layer in layers]) if addressable else join(layers)

    return _map_layers(copy, tree)


def split_like(like: Any, tree: Any) -> Any:
    """``tree``, which is stacked, in the layout of ``like``, another tree of the same values.

    A stacked array is deleted as soon as its layers are made: only one parameter needs memory twice.
    """

    def place(like: Any, leaf: Any) -> Any:
        if not _is_layers(like):
            return leaf
        layers = split(leaf)
        leaf.delete()
        return layers

    return jax.tree.map(place, like, tree, is_leaf=_is_layers)


def split(leaf: Any) -> Layers:
    """One stacked parameter [l, ...] → its l layers; see :func:`per_layer`."""
    if isinstance(leaf, Layers):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        layer = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=_inner(leaf.sharding))
        return Layers([layer] * leaf.shape[0])
    if isinstance(leaf, np.ndarray | jax.core.Tracer):
        return Layers(leaf)
    return Layers(_compiled(tuple, _inner(leaf.sharding))(leaf))


def join(layers: Layers) -> Any:
    """Inverse of :func:`split`."""
    first = layers[0]
    if isinstance(first, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(layers.shape, layers.dtype, sharding=_outer(first.sharding))
    if isinstance(first, np.ndarray | np.generic):
        return np.stack(layers)
    if isinstance(first, jax.core.Tracer):
        return jnp.stack(layers)
    return _compiled(jnp.stack, _outer(first.sharding))(tuple(layers))


def _is_layers(node: Any) -> bool:
    return isinstance(node, Layers)


def _map_layers(function: Callable[[Layers], Any], tree: Any) -> Any:
    return jax.tree.map(lambda node: function(node) if _is_layers(node) else node, tree, is_leaf=_is_layers)


@functools.cache
def _compiled(function: Callable[..., Any], sharding: Sharding | None) -> Any:
    """One program per sharding: without it, each call would compile anew."""
    return jax.jit(lambda x: function(x), out_shardings=sharding)


def _inner(sharding: Sharding | None) -> Sharding | None:
    """Of a layer, from that of the stacked array; None leaves it to the compiler."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, P(*sharding.spec[1:]), memory_kind=sharding.memory_kind)
    return sharding if isinstance(sharding, SingleDeviceSharding) else None


def _outer(sharding: Sharding | None) -> Sharding | None:
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, P(None, *sharding.spec), memory_kind=sharding.memory_kind)
    return sharding if isinstance(sharding, SingleDeviceSharding) else None
