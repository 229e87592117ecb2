"""The data of a study: prepared once in its folder, before any job starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pivot_jax.data.scenes import World
from pivot_jax.errors import UserError


def prepare(declared: Mapping[str, Any], folder: Path) -> None:
    """Writes what ``data`` of a study declares into ``folder``, unless it is there. {}: the configs name data.

    Raises:
      UserError: unknown kind, or settings that are not those of the kind.
    """
    if not declared:
        return
    settings = dict(declared)
    kind = settings.pop("kind", "")
    if kind not in KINDS:
        raise UserError(f"data.kind: '{kind}' is unknown (allowed: {', '.join(KINDS)})")
    try:
        KINDS[kind](folder, **settings)
    except TypeError as error:
        raise UserError(f"data: {error}") from None


def _scenes(folder: Path, *, world: Mapping[str, Any], sizes: Mapping[str, int], seed: int, vocabulary: int) -> None:
    """Draws the images of scenes and trains a tokenizer on their texts."""
    from pivot_jax.data import scenes
    from pivot_jax.data.processing.tokenizer import train_bpe

    prepared = scenes_folder(folder)
    if not (prepared / "dataset_info.json").is_file():
        print(f"drawing {sum(sizes.values()):,} images", flush=True)
    scenes.prepare(folder, World(**world), sizes, seed, name=NAME)
    if not (folder / "tokenizer" / "tokenizer.json").is_file():
        train_bpe(_corpus(prepared), vocabulary, folder / "tokenizer")


def _easy_vqa(folder: Path, *, seed: int) -> None:
    """Questions, pairs and captions of easy-VQA, in ``data/`` of the folder, as ``configs/real`` expects them."""
    from pivot_jax.data.easy_vqa import prepare

    prepare(folder / "data", seed)


KINDS: Mapping[str, Callable[..., None]] = {"scenes": _scenes, "easy-vqa": _easy_vqa}
NAME = "study"


def scenes_folder(folder: Path) -> Path:
    """The prepared data set of scenes in a study's folder of data."""
    return folder / "scenes" / NAME / "1.0.0"


def _corpus(prepared: Path) -> list[str]:
    """Training texts for the tokenizer, none from a test split."""
    from pivot_jax.data import scenes

    texts = []
    for split in ("caption", "vqa", "preference"):
        rows = scenes.open_split(prepared, split, images=False)
        for index in range(min(len(rows), 1000)):
            row = rows[index]
            if row["conversations"]:
                texts += [turn["value"].removeprefix("<image>\n") for turn in json.loads(row["conversations"])]
            else:
                texts += [row[key].decode().removeprefix("<image>\n") for key in ("prompt", "chosen", "rejected")]
    return texts
