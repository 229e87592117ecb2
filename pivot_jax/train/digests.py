"""Digests of arrays, by which a damaged checkpoint is recognised.

The digest of an array is two sums modulo 2^32 over its elements, each of an element's bits mixed with its flat index::

    k = i * 0x9E3779B1    v = mix(bits[i] ^ k)    digest = (sum(v), sum(v * (k | 1)))

A sum does not depend on how the array is distributed over devices or processes, nor on whether the layers of a stack
are one array or many. ``mix`` is a bijection, so a change in one element always changes the first sum; any other change
goes unnoticed with probability 2^-64. It protects against damage, not against an attacker.

Arrays of an accelerator are summed there, those of the host and of CPU devices by NumPy, which needs no compilation.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.models.stacking import Layers

ITEM = "digests"  # of a checkpoint, beside its state
LAYOUT = 1  # of the item and of the sums
_GOLDEN, _CHUNK = 0x9E3779B1, 1 << 15  # elements whose temporary arrays stay in the processor's cache
_WORD = {1: np.uint8, 2: np.uint16, 4: np.uint32}


@dataclass(frozen=True)
class Digests:
    """What a checkpoint holds: path of each array → (dtype, shape, 16 hex digits), and a hash of its progress."""

    arrays: Mapping[str, tuple[str, tuple[int, ...], str]]
    progress: str

    def as_json(self) -> dict[str, Any]:
        own = {"layout": LAYOUT, "arrays": dict(self.arrays), "progress": self.progress}
        return own | {"own": hash_of(own)}


def of_checkpoint(state: Any, progress: Mapping[str, Any]) -> Digests:
    """The digests of a train state, in either layout of ``models.stacking``, and of the progress saved with it."""
    return Digests(of_tree(state), hash_of(progress))


def of_tree(tree: Any) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Path → (dtype, shape, digest) of each array of a tree; a stack of layers counts as one array."""
    leaves = dict(paths(tree))
    sums = jax.device_get({path: _sums(leaf) for path, leaf in leaves.items()})
    return {
        path: (str(leaf.dtype), tuple(leaf.shape), "".join(f"{int(x) & 0xFFFFFFFF:08x}" for x in sums[path]))
        for path, leaf in leaves.items()
    }


def paths(tree: Any) -> Iterator[tuple[str, Any]]:
    """(path, leaf) of a tree, the path as orbax writes it: names, keys and positions, joined with ``/``."""
    found = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, Layers))[0]
    for keys, leaf in found:
        yield "/".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", None)))) for key in keys), leaf


def hash_of(value: Any) -> str:
    """SHA-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read(step: Path) -> Digests | None:
    """The digests of a checkpoint's folder; None where an earlier version wrote none, or a later one other ones.

    Raises:
      ValueError: they are there, but damaged.
    """
    file = step / ITEM / "metadata"  # orbax's name for the JSON of an item
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.pop("own", None) != hash_of(found):
        raise ValueError(f"{ITEM} do not fit their own hash")
    if found["layout"] != LAYOUT:
        return None
    arrays = {path: (dtype, tuple(shape), digest) for path, (dtype, shape, digest) in found["arrays"].items()}
    return Digests(arrays, found["progress"])


def _sums(leaf: Any) -> Any:
    """The two sums of an array, or of the layers of a stack."""
    if not isinstance(leaf, Layers):
        return _array_sums(leaf, 0)
    size = math.prod(leaf[0].shape)
    each = [_array_sums(layer, number * size) for number, layer in enumerate(leaf)]
    return sum((np.asarray(sums, np.uint32) for sums in jax.device_get(each)), np.zeros(2, np.uint32))


def _array_sums(array: Any, offset: int) -> Any:
    local = getattr(array, "is_fully_addressable", True)
    on_host = not isinstance(array, jax.Array) or all(device.platform == "cpu" for device in array.devices())
    return _host(np.asarray(array), offset) if local and on_host else _device(array, np.uint32(offset % 2**32))


def _mix(v: Any) -> Any:
    """A bijection of 32 bits, in which each bit of the input changes about half of those of the output."""
    v ^= v >> 16
    v *= _u32(0x7FEB352D)
    v ^= v >> 15
    v *= _u32(0x846CA68B)
    v ^= v >> 16
    return v


def _u32(value: int) -> np.uint32:
    return np.uint32(value & 0xFFFFFFFF)


def _host(array: np.ndarray, offset: int) -> np.ndarray:
    """The sums of an array in host memory, whose first element has the index ``offset``."""
    size = array.dtype.itemsize
    flat = np.ascontiguousarray(array).reshape(-1).view(_WORD.get(size, np.uint32))
    offset *= max(1, size // 4)  # 64-bit numbers count as two
    first, second = 0, 0
    index = np.arange(_CHUNK, dtype=np.uint32) * _u32(_GOLDEN)
    for start in range(0, flat.size, _CHUNK):
        bits = flat[start : start + _CHUNK]
        k = index[: bits.size] + _u32((start + offset) * _GOLDEN)
        v = _mix(bits ^ k)
        first += int(v.sum(dtype=np.uint64))
        k |= _u32(1)
        v *= k
        second += int(v.sum(dtype=np.uint64))
    return np.asarray([first % 2**32, second % 2**32], np.uint32)


@jax.jit
def _device(array: Any, offset: Any) -> Any:
    """As :func:`_host`, compiled, of an array that may be distributed."""
    bits = array.astype(jnp.uint8) if array.dtype == jnp.bool_ else array
    bits = jax.lax.bitcast_convert_type(bits, _WORD[array.dtype.itemsize]).astype(jnp.uint32)
    index = jnp.full(array.shape, offset, jnp.uint32)
    stride = 1
    for axis in reversed(range(array.ndim)):  # an iota per axis, which is distributed as the array is
        index += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * _u32(stride)
        stride *= array.shape[axis]
    k = index * _u32(_GOLDEN)
    v = _mix(bits ^ k)
    return jnp.stack([v.sum(dtype=jnp.uint32), (v * (k | _u32(1))).sum(dtype=jnp.uint32)])
