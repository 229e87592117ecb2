"""MMPR (InternVL): preference rows in JSON Lines, with the subsets listed in ``meta.json``."""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.sources.base import ImageRoot, Joined, Mapped, Selected, Source, root_of
from pivot_jax.data.sources.json_files import JsonLines
from pivot_jax.data.sources.llava import preference_example
from pivot_jax.data.sources.rows import existing
from pivot_jax.errors import UserError

log = logging.getLogger(__name__)


def mmpr(
    path: str, root: str | None = None, image_root: str | ImageRoot | None = None, subsets: Sequence[str] = ()
) -> Source:
    """MMPR from its ``meta.json``, or one annotation file (``.jsonl``) with ``image_root``.

    Args:
      path: ``meta.json`` (subset → {root, annotation, data_augment, repeat_time, length}) or an annotation file.
      root: folder that the paths inside ``meta.json`` are relative to. Default: the folder of ``meta.json``, or the
        one above it, whichever has the file.
      subsets: names to take, in this order, or patterns such as "*correctness_rules*"; () takes all.

    ``repeat_time`` is honoured: 2 uses every row twice, 0.5 the first half of the rows, 1.5 all and then the first
    half. ``data_augment`` (image augmentation of InternVL's tiling) has no counterpart here and is ignored.

    Raises:
      UserError: a file or subset that does not exist, or a bad ``repeat_time``.
    """
    where = existing(path)
    if where.suffix == ".jsonl":
        return _annotation(where, root_of(where, image_root))
    try:
        meta = json.loads(where.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(meta, dict) or not meta:
        raise UserError(f"{path}: not an object of subset → {{root, annotation, ...}}")
    anywhere = ImageRoot.of(image_root).anywhere
    names = dict.fromkeys(name for one in subsets for name in _named(one, meta, path)) or meta
    return Joined([_subset(where, name, meta[name], root, anywhere) for name in names])


def _named(pattern: str, meta: Mapping[str, Any], path: str) -> list[str]:
    names = [pattern] if pattern in meta else fnmatch.filter(meta, pattern)
    if not names:
        raise UserError(f"{path}: no subset {pattern!r} (there are: {', '.join(meta)})")
    return names


def _subset(meta_path: Path, name: str, entry: Any, root: str | None, anywhere: bool) -> Source:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("annotation", "root")):
        raise UserError(f"{meta_path}: subset '{name}' has no 'annotation' or no 'root'")
    folders = [root] if root is not None else [str(meta_path.parent), str(meta_path.parent.parent), "."]
    roots = [ImageRoot(folder, anywhere) for folder in folders]
    annotation, images = (_find(meta_path, name, entry[key], roots) for key in ("annotation", "root"))
    if not annotation.exists():
        raise UserError(
            f"{meta_path}: annotation '{entry['annotation']}' of subset '{name}' is not under {' or '.join(folders)}; "
            "set 'root' in data.sources"
        )
    source: Source = _annotation(annotation, ImageRoot(str(images), anywhere))
    length = entry.get("length")
    if isinstance(length, int) and length != len(source):
        log.warning("%s: subset '%s' has %d rows, meta.json says %d", meta_path, name, len(source), length)
    repeat = entry.get("repeat_time", 1)
    if isinstance(repeat, bool) or not isinstance(repeat, (int, float)) or repeat <= 0:
        raise UserError(f"{meta_path}: subset '{name}' has repeat_time {repeat!r}; it must be a number above 0")
    if repeat == 1:
        return source
    indices = np.arange(int(len(source) * repeat)) % max(len(source), 1)
    return Selected(source, indices, f"repeat {repeat}")


def _find(meta_path: Path, name: str, relative: str, roots: Sequence[ImageRoot]) -> Path:
    """``relative`` under the first of the roots that has it, or else under the first."""
    inside = [Path(path) for root in roots if (path := root.path(relative)) is not None]
    if not inside:
        folders = " and ".join(str(root.folder) for root in roots)
        raise UserError(
            f"{meta_path}: '{relative}' of subset '{name}' is outside {folders}; set 'root' in data.sources, or "
            "data.allow_outside_root=True if you trust this file"
        )
    return next((path for path in inside if path.exists()), inside[0])


def _annotation(path: Path, image_root: ImageRoot) -> Source:
    def convert(row: dict[str, Any], row_id: str) -> Example:
        return preference_example(row, row_id, image_root, question_key="question")

    return Mapped(JsonLines(path), convert, f"mmpr|{image_root}")
