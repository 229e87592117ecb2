"""Hugging Face checkpoint → our parameter tree, read slice by slice into sharded device arrays."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.hub import configs, families, names
from pivot_jax.hub.families import HubModel
from pivot_jax.hub.fill import Filler, bytes_of
from pivot_jax.hub.names import Entry
from pivot_jax.hub.shards import Shards
from pivot_jax.hub.snapshot import folder_of
from pivot_jax.progress import Advance

_ROWS_COMPARED = 4096

Choose = Callable[[str, tuple[int, ...]], Sharding | None]
Show = Callable[[int], AbstractContextManager[Advance]]


def load_params(
    folder: str | Path,
    target_shardings: Sharding | Mapping[str, Any] | Choose | None = None,
    dtype: Any = jnp.float32,
    *,
    prefix: str = "",
    final: bool = True,
    allow_non_finite: bool = False,
    show: Show | None = None,
) -> dict[str, Any]:
    """Parameters of a Hugging Face folder as our nested dict (tree in ARCHITECTURE.md).

    Every tensor is read once, and of it only the rows that devices of this process need. Host memory holds one
    parameter of ours at a time (these devices' slices of it; of a stacked parameter, of all its layers).

    Args:
      folder: a folder, or the name of a model on the hub; holds config.json and safetensors, whole or in shards. See
        ``families.FOLDERS`` for the families. Or a safetensors file (or a folder of some) with a projector alone, as
        LLaVA's own code saves it.
      target_shardings: one sharding for all; or a nested dict of shardings, of the wanted parameters:
        a parameter that it does not name is not read; or a function of (path, shape) that returns a sharding, or
        None for a parameter that is not wanted. None: all on the first device.
      dtype: of the result, whatever the file's.
      prefix: only the parameters below it ("vision", "decoder/blocks"); the result still starts at the root.
      final: False leaves ``vision/final`` (last block, closing norm, pooling head) out.
      allow_non_finite: read weights that are NaN or infinite too.
      show: bytes to read → context manager; its value is called with the number of bytes that were read
        (``progress.progress``).

    Raises:
      UserError: before anything is read, for keys that are missing, unknown or of another shape than config.json
        says (with the file and the nearest key that is there), or for damaged files. While reading, for a tensor with
        NaN or infinity.
    """
    folder = folder_of(folder)
    model = configs.read(folder)
    if model.absent_tower and not prefix.strip("/").startswith(("decoder", "projector")):
        _ = model.mllm  # raises: says where to get its parts
    with _shards(folder, model) as shards:
        source = match(shards, model)
        wanted = {
            path: entry
            for path, entry in source.entries.items()
            if f"{path}/".startswith(f"{prefix.strip('/')}/" if prefix.strip("/") else "")
            and (final or not path.startswith("vision/final/"))
        }
        if not wanted:
            raise UserError(f"{folder} ({model.model_type}) has no parameters at '{prefix}'")
        shardings = _shardings(target_shardings, wanted, source.entries, folder)
        total = sum(bytes_of(shards, source.file_keys, wanted[path]) for path in shardings)
        with show(total) if show else contextlib.nullcontext() as advance:
            filler = Filler(shards, source.file_keys, dtype, advance, allow_non_finite=allow_non_finite)
            return rules.unflatten({path: filler.array(wanted[path], where) for path, where in shardings.items()})


def from_hub(folder: str | Path, **load: Any) -> tuple[HubModel, dict[str, Any]]:
    """The model of a folder or of a name on the hub: its config and its parameters.

    Args:
      folder: a folder, or a name such as ``google/siglip2-so400m-patch16-384``. Dimensions alone are in ``models.zoo``,
        without a network.
      load: as for :func:`load_params`: shardings, dtype, ``prefix``, ``final``.

    Raises:
      UserError: see :func:`hub.snapshot.folder_of` and :func:`load_params`.
    """
    folder = folder_of(folder)
    return configs.read(folder), load_params(folder, **load)


def headers(folder: str | Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Path → shape and stored type of the parameters that a folder holds; no weights are read.

    Raises:
      UserError: as :func:`load_params`.
    """
    folder = folder_of(folder)
    model = configs.read(folder)
    with _shards(folder, model) as shards:
        entries, file_keys = match(shards, model)
        return {path: (e.shape, str(shards.type_of(file_keys[e.keys[0]]))) for path, e in entries.items()}


def _shards(folder: Path, model: HubModel) -> Shards:
    if model.model_type != families.llava_original.PROJECTOR:
        return Shards(folder)
    files = families.llava_original.projector_files(folder)
    return Shards(files[0].parent, [file.name for file in files])


class Checkpoint(NamedTuple):
    """A checked checkpoint: the parameters that it holds and the file key of each canonical key."""

    entries: Mapping[str, Entry]
    file_keys: Mapping[str, str]


def match(shards: Shards, model: HubModel) -> Checkpoint:
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
    _check_tied(shards, found, passed_over, file_keys)
    return Checkpoint({entry.path: entry for entry in found}, file_keys)


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
            near = nearest(key, extra or list(file_keys))
            there = f"nearest: '{file_keys[near]}' in {shards.where(file_keys[near])}" if near else "nothing is like it"
            yield f"{shards.folder}: '{key}' (our {entry.path}) is missing; {there}"
        elif shards.shape(name) != entry.their_shape:
            shapes = f"has shape {list(shards.shape(name))}, expected {list(entry.their_shape)}"
            yield f"{shards.where(name)}: '{name}' {shapes}"
        else:
            shards.check_float(name)
    for key in extra:
        near = nearest(key, list(needed))
        known = f"; nearest known: '{near}'" if near else ""
        yield f"{shards.where(file_keys[key])}: '{file_keys[key]}' is not a parameter of this model{known}"


def _check_tied(shards: Shards, found: Sequence[Entry], passed_over: set[str], file_keys: Mapping[str, str]) -> None:
    """Raises UserError where config.json ties the head to the embedding, and the file has another head."""
    embed = next((file_keys[entry.keys[0]] for entry in found if entry.path == "decoder/embed"), None)
    head = next((file_keys[key] for key in passed_over & set(file_keys) if key.endswith("lm_head.weight")), None)
    if embed is None or head is None:
        return
    same = shards.shape(head) == shards.shape(embed) and shards.type_of(head) == shards.type_of(embed)
    for start in range(0, shards.shape(head)[0], _ROWS_COMPARED) if same else ():
        count = min(_ROWS_COMPARED, shards.shape(head)[0] - start)
        both = [np.empty((count, *shards.shape(name)[1:]), shards.type_of(name)) for name in (head, embed)]
        for name, rows in zip((head, embed), both, strict=True):
            shards.rows(name, start, rows)
        if both[0].tobytes() != both[1].tobytes():
            same = False
            break
    if not same:
        raise UserError(
            f"{shards.where(head)}: '{head}' differs from '{embed}', but config.json says tie_word_embeddings; set it "
            "to false, or delete the head"
        )


def nearest(key: str, candidates: Sequence[str]) -> str | None:
    """The most similar of ``candidates``, if one is like ``key`` at all."""
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
            raise UserError(f"{folder} has no parameter '{path}'; nearest: '{nearest(path, list(known))}'")
    return {path: sharding for path, sharding in flat.items() if path in wanted}
