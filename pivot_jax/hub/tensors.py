"""Our arrays → Hugging Face tensors, streamed one layer at a time into safetensors shards."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.hub import configs, names
from pivot_jax.hub.families import HubModel, layout_of, summary
from pivot_jax.hub.fill import turned
from pivot_jax.hub.names import Entry
from pivot_jax.hub.shards import INDEX, WHOLE
from pivot_jax.models.stacking import Layers
from pivot_jax.progress import Advance

DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # as safetensors spells them

Shapes = dict[str, tuple[int, ...]]  # canonical key -> shape, in the order of writing


@dataclass(frozen=True)
class Lazy:
    """A parameter that is read when it is written, and is not kept."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Piece(NamedTuple):
    """Contiguous rows of a tensor: all of it, or one of its equal parts."""

    key: str
    offset: int  # bytes from the tensor's start
    array: np.ndarray


class Tensors:
    """The checkpoint of a model's parameters.

    ``shapes`` has keys and shapes without touching an array; iterating brings the arrays to the host (all processes of
    a distributed run must iterate, because gathering is collective). A parameter may be :class:`Lazy`.

    Raises:
      UserError: parameters that do not fit the configuration, or an unknown dtype.
    """

    def __init__(self, params: Mapping[str, Any], model: HubModel, dtype: str):
        if dtype not in DTYPES:
            raise UserError(f"dtype '{dtype}' is unknown; there are: {', '.join(DTYPES)}")
        sizes = configs.sizes(model)
        self._dtype, self.code = np.dtype(DTYPES[dtype]), _CODES[dtype]
        layout = layout_of(model)
        self._entries, _ = names.entries(layout, sizes)
        self._params = {p: x for p, x in rules.flatten(params).items() if p.split("/")[0] in sizes}
        self._made = {key: np.zeros(shape, np.float32) for key, shape in names.zeros(layout, sizes).items()}
        self._made |= _identity_norm(model, layout)
        self._check(model)
        self.shapes: Shapes = {key: entry.their_shape for entry in self._entries for key in entry.keys}
        self.shapes |= {key: array.shape for key, array in self._made.items()}

    @property
    def bytes(self) -> int:
        return sum(self.bytes_of(key) for key in self.shapes)

    def bytes_of(self, key: str) -> int:
        return int(np.prod(self.shapes[key], dtype=np.int64)) * self._dtype.itemsize

    def __iter__(self) -> Iterator[Piece]:
        for entry in self._entries:
            number, of = entry.rule.part
            array = self._params[entry.path]
            array = array.read() if isinstance(array, Lazy) else array
            for layer, key in enumerate(entry.keys):
                ours = _on_host(array, layer if entry.rule.stacked else None)
                piece = _contiguous(_theirs(entry, ours)).astype(self._dtype, copy=False)
                yield Piece(key, number * self.bytes_of(key) // of, piece)
        for key, array in self._made.items():
            yield Piece(key, 0, array.astype(self._dtype))

    def _check(self, model: HubModel) -> None:
        expected = {entry.path: entry.shape for entry in self._entries}
        for path, shape in expected.items():
            if path not in self._params:
                raise UserError(f"the parameters hold no '{path}'; are they another model's? ({summary(model)})")
            there = tuple(self._params[path].shape)
            if there != shape:
                raise UserError(f"'{path}' has shape {list(there)}, expected {list(shape)} ({summary(model)})")
        for path in self._params:
            if path not in expected and not (path.startswith("vision/final/") and not model.final):
                raise UserError(f"'{path}' is not a parameter of a '{model.model_type}' checkpoint ({summary(model)})")


def write_shards(
    folder: Path, tensors: Tensors, pieces: Iterator[Piece], shard_bytes: int, advance: Advance | None = None
) -> None:
    """model.safetensors, or numbered shards of at most ``shard_bytes`` and their index; flushed to disk.

    A file's header says where each tensor is stored; the tensors are then written there in any order.
    Host memory holds one tensor.

    Args:
      pieces: ``iter(tensors)``.
      advance: called with the number of bytes that were written.
    """
    shard_of = _assign(tensors, shard_bytes)
    count = max(shard_of.values()) + 1
    file_names = [WHOLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    with contextlib.ExitStack() as stack:
        starts: dict[str, tuple[Any, int]] = {}
        for shard, name in enumerate(file_names):
            file = stack.enter_context(open(folder / name, "wb", buffering=0))
            offsets = _write_header(file, tensors, [key for key, s in shard_of.items() if s == shard])
            starts |= {key: (file, start) for key, start in offsets.items()}
        for key, offset, array in pieces:
            file, start = starts[key]
            _write(file, array, start + offset)
            if advance:
                advance(array.nbytes)
        for file in {file for file, _ in starts.values()}:
            os.fsync(file.fileno())
    if count > 1:
        weight_map = {key: file_names[shard] for key, shard in shard_of.items()}
        index = {"metadata": {"total_size": tensors.bytes}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def drain(tensors: Iterable[Any]) -> None:
    """Takes part in the gathering without writing, on all processes but the first."""
    for _ in tensors:
        pass


def _assign(tensors: Tensors, shard_bytes: int) -> dict[str, int]:
    shard_of, shard, filled = {}, 0, 0
    for key in tensors.shapes:
        size = tensors.bytes_of(key)
        if filled and filled + size > shard_bytes:
            shard, filled = shard + 1, 0
        shard_of[key] = shard
        filled += size
    return shard_of


def _write_header(file: Any, tensors: Tensors, keys: list[str]) -> dict[str, int]:
    """Writes the header of a safetensors file; returns each tensor's first byte in the file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key in keys:
        begin, end = end, end + tensors.bytes_of(key)
        header[key] = {"dtype": tensors.code, "shape": tensors.shapes[key], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8 bytes
    start = 8 + len(text)
    _write(file, np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8), 0)
    os.truncate(file.fileno(), start + end)
    return {key: start + header[key]["data_offsets"][0] for key in keys}


def _write(file: Any, array: np.ndarray, start: int) -> None:
    left = array.reshape(-1).view(np.uint8).data
    while left:
        count = os.pwrite(file.fileno(), left, start)
        left, start = left[count:], start + count


def _theirs(entry: Entry, array: np.ndarray) -> np.ndarray:
    """Inverse of the pattern: one layer of ours → their tensor (one part of it)."""
    order = [axis for group in entry.groups for axis in group]
    inverse = np.argsort(order)
    return array.reshape([entry.part_shape[axis] for axis in order]).transpose(inverse)


def _contiguous(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.strides[0] < array.strides[1]:
        return turned(array, np.empty(array.shape, array.dtype))
    return np.ascontiguousarray(array)


def _on_host(array: Any, layer: int | None) -> np.ndarray:
    """One layer of a stack's parameter, or a whole one, assembled from its shards in host memory.

    Between several processes a layer is gathered by all of them, one at a time.
    """
    if isinstance(array, Layers) and layer is not None:
        array, layer = array[layer], None
    if not isinstance(array, jax.Array):
        return np.asarray(array if layer is None else array[layer])
    if not array.is_fully_addressable:
        part = array if layer is None else _layer(array, layer)
        return np.asarray(multihost_utils.process_allgather(part, tiled=True))
    shape = array.shape if layer is None else array.shape[1:]
    out = np.empty(shape, array.dtype)
    for shard in array.addressable_shards:
        if shard.replica_id != 0:
            continue
        if layer is None:
            out[shard.index] = shard.data
            continue
        layers = range(*shard.index[0].indices(array.shape[0]))
        if layer in layers:
            # a CPU's memory is the host's; from other devices only the layer is fetched
            data = np.asarray(shard.data) if shard.device.platform == "cpu" else shard.data
            out[shard.index[1:]] = data[layer - layers.start]
    return out


@jax.jit
def _layer(array: jax.Array, layer: Any) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(array, layer, keepdims=False)


def _identity_norm(model: HubModel, layout: names.Layout) -> dict[str, np.ndarray]:
    """The closing norm that a class must have, where ours was left out with the last block: scale 1, bias 0."""
    if model.vision is None or model.final or not model.vision.traits.penultimate:
        return {}
    keys = {rule.ours: rule.theirs for rule in layout.rules}
    ones, zeros = np.ones(model.vision.width, np.float32), np.zeros(model.vision.width, np.float32)
    return {keys["vision/final/norm/scale"]: ones, keys["vision/final/norm/bias"]: zeros}
