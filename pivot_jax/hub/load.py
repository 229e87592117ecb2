"""Hugging Face checkpoint → our parameter tree, read slice by slice straight into sharded device arrays."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.hub import configs, families, names
from pivot_jax.hub.names import Entry
from pivot_jax.hub.shards import Shards
from pivot_jax.hub.snapshot import folder_of

Choose = Callable[[str, tuple[int, ...]], Sharding | None]


def load_params(
    folder: str | Path,
    target_shardings: Sharding | Mapping[str, Any] | Choose | None = None,
    dtype: Any = jnp.float32,
    *,
    prefix: str = "",
    final: bool = True,
) -> dict[str, Any]:
    """Parameters of a Hugging Face folder as our nested dict (tree in ARCHITECTURE.md).

    Every device reads only its own slice of every tensor. Host memory holds one parameter of ours at a time
    (one device's slice of it; for a stacked parameter, of all its layers).

    Args:
      folder: a folder, or the name of a model on the hub; holds config.json and safetensors, whole or in shards. See
        ``families.FOLDERS`` for the families. Or a safetensors file (or a folder of some) with a projector alone, as
        LLaVA's own code saves it.
      target_shardings: one sharding for all; or a nested dict of shardings, which also says what is wanted:
        a parameter that it does not name is not read; or a function of (path, shape) that gives a sharding, or
        None for what is not wanted. None: all on the first device.
      dtype: of the result, whatever the file's.
      prefix: only what is below it ("vision", "decoder/blocks"); the result still starts at the root.
      final: False leaves ``vision/final`` (last block, closing norm, pooling head) out.

    Raises:
      UserError: before anything is read, for keys that are missing, unknown or of another shape than config.json
        says (with the file and the nearest key that is there), or for damaged files.
    """
    folder = folder_of(folder)
    model = configs.read(folder)
    if model.absent_tower and not prefix.strip("/").startswith(("decoder", "projector")):
        _ = model.mllm  # says where its parts are to be had
    with _shards(folder, model) as shards:
        source = _match(shards, model)
        wanted = {
            path: entry
            for path, entry in source.entries.items()
            if f"{path}/".startswith(f"{prefix.strip('/')}/" if prefix.strip("/") else "")
            and (final or not path.startswith("vision/final/"))
        }
        if not wanted:
            raise UserError(f"{folder} ({model.model_type}) has no parameters at '{prefix}'")
        shardings = _shardings(target_shardings, wanted, source.entries, folder)
        return rules.unflatten(
            {path: _device_array(source, wanted[path], sharding, dtype) for path, sharding in shardings.items()}
        )


def _shards(folder: Path, model: families.HubModel) -> Shards:
    if model.model_type != families.llava_original.PROJECTOR:
        return Shards(folder)
    files = families.llava_original.projector_files(folder)
    return Shards(files[0].parent, [file.name for file in files])


class _Source:
    """A checked checkpoint: the parameters that it holds and the file key of each canonical key."""

    def __init__(self, shards: Shards, entries: Mapping[str, Entry], file_keys: Mapping[str, str]):
        self.shards = shards
        self.entries = entries
        self._file_keys = file_keys

    def read(self, entry: Entry, index: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
        """The part of one parameter of ours that ``index`` covers."""
        ranges = [range(*s.indices(size)) for s, size in zip(index, entry.shape, strict=True)]
        out = np.empty([len(r) for r in ranges], dtype)
        if not entry.rule.stacked:
            out[...] = self._piece(entry, entry.keys[0], ranges)
            return out
        for place, layer in enumerate(ranges[0]):
            out[place] = self._piece(entry, entry.keys[layer], ranges[1:])
        return out

    def _piece(self, entry: Entry, key: str, ranges: Sequence[range]) -> np.ndarray:
        """``ranges`` of our axes from one tensor; an axis of ours made of several of theirs is read whole, then cut."""
        theirs = [slice(0, size) for size in entry.part_shape]
        cut: list[slice] = []
        for group, wanted in zip(entry.groups, ranges, strict=True):
            part = slice(wanted.start, wanted.stop)
            cut.append(slice(None) if len(group) == 1 else part)
            if len(group) == 1:
                theirs[group[0]] = part
        offset = entry.rule.part[0] * entry.part_shape[0]
        theirs[0] = slice(theirs[0].start + offset, theirs[0].stop + offset)
        block = self.shards.read(self._file_keys[key], theirs)
        order = [axis for group in entry.groups for axis in group]
        axes = zip(entry.groups, entry.our_shape, ranges, strict=True)
        shape = [size if len(group) > 1 else len(wanted) for group, size, wanted in axes]
        return block.transpose(order).reshape(shape)[tuple(cut)]


def _match(shards: Shards, model: families.HubModel) -> _Source:
    """Pairs every parameter with its tensors and checks names, shapes and types from the headers."""
    layout = families.layout_of(model)
    layout = layout.of(map(layout.canonical, shards.keys))
    found, passed_over = names.entries(layout, configs.sizes(model))
    passed_over |= {key for key, _ in layout.zeros}
    file_keys: dict[str, str] = {}
    for key in shards.keys:
        canonical = layout.canonical(key)
        if canonical in file_keys:
            raise UserError(f"{shards.where(key)}: '{key}' and '{file_keys[canonical]}' are the same parameter twice")
        file_keys[canonical] = key
    needed = {key: entry for entry in found for key in entry.keys}
    for problem in _problems(shards, layout, needed, passed_over, file_keys):
        raise UserError(f"{problem}; config.json says {families.summary(model)}")
    return _Source(shards, {entry.path: entry for entry in found}, file_keys)


def _problems(
    shards: Shards,
    layout: names.Layout,
    needed: Mapping[str, Entry],
    passed_over: set[str],
    file_keys: Mapping[str, str],
) -> Iterator[str]:
    extra = [k for k in file_keys if k not in needed and k not in passed_over and not re.fullmatch(layout.ignored, k)]
    for key, entry in needed.items():
        name = file_keys.get(key)
        if name is None:
            near = _nearest(key, extra or list(file_keys))
            there = f"nearest: '{file_keys[near]}' in {shards.where(file_keys[near])}" if near else "nothing is like it"
            yield f"{shards.folder}: '{key}' (our {entry.path}) is missing; {there}"
        elif shards.shape(name) != entry.their_shape:
            shapes = f"has shape {list(shards.shape(name))}, expected {list(entry.their_shape)}"
            yield f"{shards.where(name)}: '{name}' {shapes}"
        else:
            shards.check_float(name)
    for key in extra:
        near = _nearest(key, list(needed))
        nearest = f"; nearest known: '{near}'" if near else ""
        yield f"{shards.where(file_keys[key])}: '{file_keys[key]}' is not a parameter of this model{nearest}"


def _nearest(key: str, candidates: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(key, candidates, n=1, cutoff=0.3)), None)


def _shardings(
    target: Sharding | Mapping[str, Any] | Choose | None,
    wanted: Mapping[str, Entry],
    known: Mapping[str, Entry],
    folder: Path,
) -> dict[str, Sharding]:
    if target is None:
        target = SingleDeviceSharding(jax.local_devices()[0])
    if isinstance(target, Sharding):
        return dict.fromkeys(wanted, target)
    if callable(target):
        chosen = {path: target(path, entry.shape) for path, entry in wanted.items()}
        return {path: sharding for path, sharding in chosen.items() if sharding is not None}
    flat = rules.flatten(target)
    for path in flat:
        if path not in known:
            raise UserError(f"{folder} has no parameter '{path}'; nearest: '{_nearest(path, list(known))}'")
    return {path: sharding for path, sharding in flat.items() if path in wanted}


def _device_array(source: _Source, entry: Entry, sharding: Sharding, dtype: Any) -> jax.Array:
    try:
        sharding.shard_shape(entry.shape)
    except ValueError as error:
        raise UserError(f"'{entry.path}' {list(entry.shape)} does not divide over {sharding}: {error}") from error
    kept: dict[tuple, np.ndarray] = {}  # devices that hold the same slice share one read

    def slice_of(index: Any) -> np.ndarray:
        key = tuple((s.start, s.stop) for s in index)
        if key not in kept:
            kept[key] = source.read(entry, index, np.dtype(dtype))
        return kept[key]

    return jax.make_array_from_callback(entry.shape, sharding, slice_of)
