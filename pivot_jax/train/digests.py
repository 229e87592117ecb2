"""Digests of arrays, by which a damaged checkpoint is recognised.

The digest of an array folds the sums of its rows and the sums of its columns, all modulo 2^32 over the elements' bits::

    row[i] = sum_j bits[i, j]       first  = sum_i mix(row[i] ^ (i * 0x9E3779B1))
    column[j] = sum_i bits[i, j]    second = sum_j mix(column[j] ^ (j * 0x9E3779B1))

The columns are the last axes that have at least 64 elements together, the rows are all axes before them. A sum does not
depend on how the array is distributed over devices or processes, nor on whether the layers of a stack are one array or
many, and costs no more than reading the array. ``mix`` is a bijection, so a change in one element always changes both
halves. Other damage goes unnoticed with probability 2^-64, unless it leaves the sum of every row and of every column as
it was. It protects against damage, not against an attacker.

Arrays of an accelerator are summed there, those of the host and of CPU devices by NumPy, which needs no compilation.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pivot_jax.models.stacking import Layers

ITEM = "digests"  # of a checkpoint, beside its state
LAYOUT = 2  # of the item and of the sums
_GOLDEN, _COLUMNS = 0x9E3779B1, 64
_CHUNK = 1 << 15  # elements that stay in the processor's cache between the two sums
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
      ValueError: they are damaged, or gone although they were saved.
    """
    file = step / ITEM / "metadata"  # orbax's name for the JSON of an item
    if not file.is_file():
        if ITEM in _items(step):
            raise ValueError(f"{ITEM}/metadata is missing")
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.pop("own", None) != hash_of(found):
        raise ValueError(f"{ITEM}/metadata is not what was saved")
    if found["layout"] != LAYOUT:
        return None
    arrays = {path: (dtype, tuple(shape), digest) for path, (dtype, shape, digest) in found["arrays"].items()}
    return Digests(arrays, found["progress"])


def _items(step: Path) -> list[str]:
    """Names of the items that a checkpoint was saved with, by orbax's own note of them."""
    try:
        return list(json.loads((step / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))["item_handlers"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _sums(leaf: Any) -> Any:
    """The two halves of the digest of an array, or of the layers of a stack, uint32 [2]."""
    split = _split(leaf.shape)
    parts = (leaf,)
    if isinstance(leaf, Layers):  # their axis is the first of the rows
        parts, split = tuple(leaf), split - 1
    return _host(parts, split) if all(map(_on_host, parts)) else _device(parts, split)


def _split(shape: tuple[int, ...]) -> int:
    """How many axes of an array are those of its rows: all but the last ones that have 64 elements together."""
    return max(
        (axis for axis in range(1, len(shape)) if math.prod(shape[axis:]) >= _COLUMNS), default=min(1, len(shape))
    )


def _on_host(array: Any) -> bool:
    if not isinstance(array, jax.Array):
        return True
    return array.is_fully_addressable and all(device.platform == "cpu" for device in array.devices())


def _host(parts: Sequence[Any], split: int) -> np.ndarray:
    """The digest of arrays in host memory, one below the other; their axes before ``split`` are rows."""
    rows, columns = [], np.zeros((), np.uint32)
    for part in map(np.asarray, parts):
        matrix = np.ascontiguousarray(part).reshape(math.prod(part.shape[:split]), math.prod(part.shape[split:]))
        matrix = matrix.view(_WORD.get(part.dtype.itemsize, np.uint32))  # 64-bit numbers count as two
        step = max(1, _CHUNK // max(1, matrix.shape[1]))
        for start in range(0, max(1, len(matrix)), step):
            chunk = matrix[start : start + step]
            rows.append(np.einsum("ij->i", chunk, dtype=np.uint32))
            columns = columns + chunk.sum(0, dtype=np.uint32)
    return np.stack([_fold(np.concatenate(rows)), _fold(columns.reshape(-1))])


@functools.partial(jax.jit, static_argnums=1)
def _device(parts: Sequence[Any], split: int) -> Any:
    """As :func:`_host`, compiled, of arrays that may be distributed."""
    rows, columns = [], jnp.zeros((), jnp.uint32)
    for part in parts:
        bits = part.astype(jnp.uint8) if part.dtype == jnp.bool_ else part
        bits = jax.lax.bitcast_convert_type(bits, _WORD[part.dtype.itemsize]).astype(jnp.uint32)
        rows.append(bits.sum(range(split, part.ndim)).reshape(-1))
        columns += bits.sum(range(split))
    return jnp.stack([_fold(jnp.concatenate(rows)), _fold(columns.reshape(-1))])


def _fold(sums: Any) -> Any:
    """One number of a vector: the sum of its elements, each mixed with its index."""
    array = jnp if isinstance(sums, jax.Array) else np
    v = sums ^ (array.arange(sums.size, dtype=np.uint32) * np.uint32(_GOLDEN))
    # a bijection of 32 bits, in which each bit of the input changes about half of those of the output
    v ^= v >> 16
    v *= np.uint32(0x7FEB352D)
    v ^= v >> 15
    v *= np.uint32(0x846CA68B)
    v ^= v >> 16
    return v.sum(dtype=np.uint32)
