"""Alignment of an encoder with a language model on captioned images: from files to a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data import sources
from pivot_jax.errors import RowError, UserError
from pivot_jax.probe import alignment, text_features
from pivot_jax.probe.alignment import Alignment
from pivot_jax.probe.alignment_metrics import METRICS
from pivot_jax.probe.feature_cache import read_features
from pivot_jax.probe.feature_settings import ALL, FeatureSettings
from pivot_jax.probe.image_sets import ImageSet
from pivot_jax.train.open import OpenEncoder, OpenLanguageModel, OpenModel
from pivot_jax.words import counted

CLAMPS: dict[str, dict[str, Any]] = {"exact": {}, "items": {"exact": False}, "none": {"quantile": 1.0}}


def align(
    encoder: OpenEncoder | OpenModel,
    data: str | Path,
    text: str | Path | OpenLanguageModel | OpenModel,
    *,
    metric: str = "mutual_knn",
    k: int = 10,
    pool: str = "mean",
    clamp: str = "exact",
    cache: str | Path | None = None,
) -> Alignment:
    """Alignment of every encoder block, averaged over patches, with every layer of a language model.

    Args:
      data: LLaVA rows with an image each; the last answer of a row is its caption.
      text: a language model, which reads the captions; or a .npy file of its features, float32 [items, layers, width],
        in the order of ``data``.
      metric: a key of ``alignment_metrics.METRICS``. k: neighbours, where it has them.
      pool: ``mean`` over a caption's tokens, or the ``last`` token; of no effect on a .npy file.
      clamp: how outliers are found, ``exact``, ``items`` or ``none`` (see ``alignment.clamp_outliers``).
      cache: folder that keeps the encoder's features (see ``feature_cache``).

    Raises:
      UserError: rows without an image or a caption, features of another shape or that are not finite, an unknown
        setting, or ``k`` not below the number of rows.
    """
    settings = (
        ("metric", metric, METRICS), ("pool", pool, text_features.POOLS), ("clamp", clamp, CLAMPS),
    )  # fmt: skip
    for name, value, allowed in settings:
        if value not in allowed:
            raise UserError(f"{name} '{value}' is unknown; choose one of {', '.join(allowed)}")
    paths, captions = captioned(data)
    _check_items(data, len(paths), metric, k)
    if isinstance(text, (str, Path)):
        words = _text_features(text)
        if len(words) != len(paths):
            raise UserError(f"{text}: shape {words.shape}; [{len(paths)}, layers, width] is needed for {data}")
    else:
        words = text_features.extract(text, captions, pool=pool)
    layers = read_features(encoder, ImageSet(paths, encoder.geometry), FeatureSettings(layer=ALL), cache).values
    try:
        return alignment.align(np.asarray(layers), words, metric=metric, k=k, **CLAMPS[clamp])
    except ValueError as error:
        raise UserError(f"{data}: {error}") from None


def _check_items(data: str | Path, items: int, metric: str, k: int) -> None:
    rule = METRICS[metric]
    if rule.local and not k < items:
        raise UserError(f"k = {k}: {data} has {counted(items, 'item')}; an item has at most {items - 1} others")
    if metric == "cknna" and k < 2:
        raise UserError(f"k = {k}: cknna compares neighbours with each other; use k of at least 2")
    if items < rule.items:
        raise UserError(f"{data} has {counted(items, 'item')}; {metric} needs at least {rule.items}")


def captioned(data: str | Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Image paths and captions of LLaVA rows."""
    source = sources.read({"format": "llava", "path": str(data)})
    try:
        examples = [source[index] for index in range(len(source))]
    except RowError as error:
        raise UserError(f"{data}: {error}; LLaVA rows with 'image' and 'conversations' are needed") from None
    if bare := [example.id for example in examples if not example.images]:
        raise UserError(f"{data}: row '{bare[0]}' has no image; every row needs one to compare with its text")
    captions = tuple(example.messages[-1].content for example in examples)
    return tuple(Path(example.images[0]) for example in examples), captions


def _text_features(path: str | Path) -> np.ndarray:
    try:
        text = np.load(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a .npy file of numbers; write float32 [items, layers, width] with numpy.save"
        ) from error
    if text.ndim != 3:
        raise UserError(f"{path}: shape {text.shape}; [items, layers, width] is needed")
    return text
