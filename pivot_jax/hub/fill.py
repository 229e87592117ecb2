"""One parameter of ours from its tensors in a checkpoint, read directly into its devices' slices."""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Sharding

from pivot_jax.errors import UserError
from pivot_jax.hub.names import Entry
from pivot_jax.hub.shards import Shards
from pivot_jax.progress import Advance

_CHUNK = 1 << 20  # bytes of a tensor that are read at once, and are still in the cache when they are copied
_STRIP = 32  # columns that a transposing copy writes at once: a cache line of bfloat16
_ALIGNED = 64  # bytes; a CPU device adopts memory that starts at such an address instead of copying it
_THREADS = min(4, os.cpu_count() or 1)


class _Target(NamedTuple):
    """A slice that some device needs, without the layer axis, and the array that it is written to."""

    ranges: Sequence[range]
    out: np.ndarray


class Filler:
    """Reads parameters one at a time. Every tensor is read once, whatever the number of devices that share it.

    Host memory: the slices of this process's devices of one parameter (of a stack, of all its layers). CPU devices
    keep them; for other devices they are freed after the transfer.

    Args:
      file_keys: canonical key → key in the files.
      advance: called with the number of bytes of each tensor that was read.
      allow_non_finite: read NaN and infinity too; otherwise a tensor that has any is a UserError.
    """

    def __init__(
        self,
        shards: Shards,
        file_keys: Mapping[str, str],
        dtype: Any,
        advance: Advance | None = None,
        *,
        allow_non_finite: bool = False,
    ):
        self._shards, self._file_keys, self._dtype = shards, file_keys, np.dtype(dtype)
        self._advance, self._checks = advance, not allow_non_finite
        self._scratch = _Scratch()

    def array(self, entry: Entry, sharding: Sharding) -> jax.Array:
        try:
            sharding.shard_shape(entry.shape)
        except ValueError as error:
            raise UserError(f"'{entry.path}' {list(entry.shape)} does not divide over {sharding}: {error}") from error
        indices = {
            device: tuple(range(*s.indices(size)) for s, size in zip(index or (), entry.shape, strict=True))
            for device, index in sharding.addressable_devices_indices_map(entry.shape).items()
        }
        slices = {ranges: _empty([len(r) for r in ranges], self._dtype) for ranges in set(indices.values())}
        self._fill(entry, slices)
        arrays = [jax.device_put(slices[ranges], device) for device, ranges in indices.items()]
        jax.block_until_ready(arrays)  # the host's memory is free before the next parameter needs some
        return jax.make_array_from_single_device_arrays(entry.shape, sharding, arrays)

    def _fill(self, entry: Entry, slices: Mapping[tuple[range, ...], np.ndarray]) -> None:
        def layer(key: str, number: int) -> None:
            targets = [
                _Target(ranges[1:], out[number - ranges[0].start]) if entry.rule.stacked else _Target(ranges, out)
                for ranges, out in slices.items()
                if not entry.rule.stacked or number in ranges[0]
            ]
            if targets:
                self._tensor(entry, self._file_keys[key], targets)

        if len(entry.keys) == 1:
            layer(entry.keys[0], 0)
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(layer, entry.keys, itertools.count()))
        if self._advance:
            self._advance(bytes_of(self._shards, self._file_keys, entry))

    def _tensor(self, entry: Entry, key: str, targets: Sequence[_Target]) -> None:
        """Rows of their first axis a few at a time; an axis of ours made of several of theirs is read whole."""
        order = [axis for group in entry.groups for axis in group]
        offset, height = entry.rule.part[0] * entry.part_shape[0], entry.part_shape[0]
        axis = entry.groups.index((0,)) if (0,) in entry.groups else None
        low, high, step = 0, height, height
        if axis is not None:
            low = min(target.ranges[axis].start for target in targets)
            high = max(target.ranges[axis].stop for target in targets)
            step = max(1, _CHUNK // max(1, self._shards.bytes_of(key) // self._shards.shape(key)[0]))
        for start in range(low, high, step):
            stop = min(start + step, high)
            shape = list(entry.our_shape)
            if axis is not None:
                shape[axis] = stop - start
            into = self._scratch.take("rows", (stop - start, *entry.part_shape[1:]), self._shards.type_of(key))
            self._shards.rows(key, offset + start, into)
            if self._checks and not _finite(into):
                raise UserError(
                    f"{self._shards.where(key)}: '{key}' has NaN or infinity; fetch the file again, or import it as it "
                    "is (pivot-jax import-hf --allow-non-finite)"
                )
            block = into.transpose(order).reshape(shape)
            if block.ndim == 2 and block.strides[0] < block.strides[1]:
                block = turned(block, self._scratch.take("turned", block.shape, block.dtype))
            for target in targets:
                _copy_part(block, axis, start, target)


class _Scratch(threading.local):
    """Memory that each thread reuses: allocating costs more than the copies."""

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray] = {}

    def take(self, name: str, shape: Sequence[int], dtype: Any) -> np.ndarray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self._held or self._held[name].size < size:
            self._held[name] = np.empty(size, np.uint8)
        return self._held[name][:size].view(dtype).reshape(shape)


def bytes_of(shards: Shards, file_keys: Mapping[str, str], entry: Entry) -> int:
    """Bytes that the files hold of one parameter."""
    return sum(shards.bytes_of(file_keys[key]) for key in entry.keys) // entry.rule.part[1]


# Bits of the exponent; NaN and infinity have all of them.
_EXPONENTS: dict[Any, tuple[Any, int]] = {
    np.dtype(np.float32): (np.uint32, 0x7F800000),
    np.dtype(np.float16): (np.uint16, 0x7C00),
    np.dtype(ml_dtypes.bfloat16): (np.uint16, 0x7F80),
}


def _finite(block: np.ndarray) -> bool:
    """Whether no number is NaN or infinite; by the bits, because NumPy's own test of bfloat16 is slow."""
    if block.dtype not in _EXPONENTS:
        return block.dtype.kind != "f" or bool(np.isfinite(block).all())
    unsigned, exponent = _EXPONENTS[block.dtype]
    return not block.size or int((block.view(unsigned) & unsigned(exponent)).max()) < exponent


def _copy_part(block: np.ndarray, axis: int | None, start: int, target: _Target) -> None:
    """Copies the target's part of a block that begins at ``start`` of our ``axis``."""
    source = [slice(r.start, r.stop) for r in target.ranges]
    into = [slice(None)] * len(source)
    if axis is not None:
        wanted = target.ranges[axis]
        first, last = max(start, wanted.start), min(start + block.shape[axis], wanted.stop)
        if first >= last:
            return
        source[axis], into[axis] = slice(first - start, last - start), slice(first - wanted.start, last - wanted.start)
    _copy(target.out[tuple(into)], block[tuple(source)])


def _copy(out: np.ndarray, block: np.ndarray) -> None:
    """``out[...] = block``, with bfloat16 widened by a shift: ten times faster than NumPy's cast."""
    if block.dtype == ml_dtypes.bfloat16 and out.dtype == np.float32:
        bits = out.view(np.uint32)
        np.copyto(bits, block.view(np.uint16))
        np.left_shift(bits, 16, out=bits)
    else:
        out[...] = block


def turned(block: np.ndarray, out: np.ndarray) -> np.ndarray:
    """A transposed matrix in strips, which keep the output in the cache: four times faster than at once."""
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[block.itemsize]  # NumPy copies its own types faster
    source, into = block.view(bits), out.view(bits)
    for start in range(0, block.shape[1], _STRIP):
        into[:, start : start + _STRIP] = source[:, start : start + _STRIP]
    return out


def _empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + _ALIGNED, np.uint8)
    start = -raw.ctypes.data % _ALIGNED
    return raw[start : start + size].view(dtype).reshape(shape)
