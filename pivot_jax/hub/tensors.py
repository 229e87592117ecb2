"""Our arrays → Hugging Face tensors, streamed one parameter at a time into safetensors shards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils
from safetensors import SafetensorError
from safetensors.numpy import save_file

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.hub import configs, names
from pivot_jax.hub.families import HubModel, layout_of, summary
from pivot_jax.hub.names import Entry
from pivot_jax.hub.shards import INDEX, WHOLE

DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}

Plan = dict[str, tuple[int, ...]]  # canonical key -> shape, in the order of writing


class Tensors:
    """The checkpoint that a model's parameters make.

    ``plan`` says keys and shapes without touching an array; iterating gathers the arrays (all processes of a
    distributed run must iterate, because gathering is collective).

    Raises:
      UserError: parameters that do not fit the configuration, or an unknown dtype.
    """

    def __init__(self, params: Mapping[str, Any], model: HubModel, dtype: str):
        if dtype not in DTYPES:
            raise UserError(f"dtype '{dtype}' is unknown; there are: {', '.join(DTYPES)}")
        sizes = configs.sizes(model)
        self._dtype = np.dtype(DTYPES[dtype])
        layout = layout_of(model)
        self._entries, _ = names.entries(layout, sizes)
        self._params = {p: x for p, x in rules.flatten(params).items() if p.split("/")[0] in sizes}
        self._made = {key: np.zeros(shape, np.float32) for key, shape in names.zeros(layout, sizes).items()}
        self._made |= _identity_norm(model, layout)
        self._check(model)
        self.plan: Plan = {key: entry.their_shape for entry in self._entries for key in entry.keys}
        self.plan |= {key: array.shape for key, array in self._made.items()}

    def bytes_of(self, key: str) -> int:
        return int(np.prod(self.plan[key], dtype=np.int64)) * self._dtype.itemsize

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        parts: dict[str, dict[int, np.ndarray]] = {}
        for entry in self._entries:
            array = _on_host(self._params[entry.path])
            layers = array if entry.rule.stacked else array[None]
            for key, layer in zip(entry.keys, layers, strict=True):
                tensor = _theirs(entry, layer).astype(self._dtype)
                place, of = entry.rule.part
                have = parts.setdefault(key, {})
                have[place] = tensor
                if len(have) == of:
                    whole = [have[i] for i in range(of)]
                    yield key, np.ascontiguousarray(whole[0] if of == 1 else np.concatenate(whole))
                    del parts[key]
        for key, array in self._made.items():
            yield key, array.astype(self._dtype)

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
                raise UserError(f"'{path}' has no place in a '{model.model_type}' checkpoint ({summary(model)})")


def write_shards(folder: Path, tensors: Tensors, gathered: Iterator[tuple[str, np.ndarray]], shard_bytes: int) -> None:
    """model.safetensors, or numbered shards of at most ``shard_bytes`` and their index; flushed to disk.

    Args:
      gathered: ``iter(tensors)``.
    """
    shard_of = _pack(tensors, shard_bytes)
    count = max(shard_of.values()) + 1
    file_names = [WHOLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    members = [{key for key, s in shard_of.items() if s == shard} for shard in range(count)]
    pending: dict[int, dict[str, np.ndarray]] = {}
    for key, tensor in gathered:
        shard = shard_of[key]
        pending.setdefault(shard, {})[key] = tensor
        if pending[shard].keys() == members[shard]:
            _save(folder / file_names[shard], pending.pop(shard))
    if count > 1:
        total = sum(tensors.bytes_of(key) for key in tensors.plan)
        weight_map = {key: file_names[shard] for key, shard in shard_of.items()}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def drain(tensors: Iterable[Any]) -> None:
    """Takes part in the gathering without writing: the processes other than the first."""
    for _ in tensors:
        pass


def _pack(tensors: Tensors, shard_bytes: int) -> dict[str, int]:
    shard_of, shard, filled = {}, 0, 0
    for key in tensors.plan:
        size = tensors.bytes_of(key)
        if filled and filled + size > shard_bytes:
            shard, filled = shard + 1, 0
        shard_of[key] = shard
        filled += size
    return shard_of


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except SafetensorError as error:  # what a full disk is to this library
        raise OSError(f"{path.name}: {error}") from error


def _theirs(entry: Entry, array: np.ndarray) -> np.ndarray:
    """Inverse of the pattern: one layer of ours → their tensor (one part of it)."""
    order = [axis for group in entry.groups for axis in group]
    inverse = np.argsort(order)
    return array.reshape([entry.part_shape[axis] for axis in order]).transpose(inverse)


def _on_host(array: Any) -> np.ndarray:
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def _identity_norm(model: HubModel, layout: names.Layout) -> dict[str, np.ndarray]:
    """The closing norm that a class must have, where ours was left out with the last block: scale 1, bias 0."""
    if model.vision is None or model.final or not model.vision.traits.penultimate:
        return {}
    keys = {rule.ours: rule.theirs for rule in layout.rules}
    ones, zeros = np.ones(model.vision.width, np.float32), np.zeros(model.vision.width, np.float32)
    return {keys["vision/final/norm/scale"]: ones, keys["vision/final/norm/bias"]: zeros}
