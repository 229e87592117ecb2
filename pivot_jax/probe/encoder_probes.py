"""Probes of an opened encoder on labelled images: from files to a result.

Square and variable-resolution encoders take the same path: features come with their places in each image's own grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.probe import class_sets, classification, mask_sets, segmentation
from pivot_jax.probe.classification import ProbeResult, ProbeSettings
from pivot_jax.probe.feature_cache import ImageFeatures, read_features
from pivot_jax.probe.feature_settings import FeatureSettings
from pivot_jax.probe.image_sets import Change, ImageSet
from pivot_jax.probe.segmentation import SegmentResult, SegmentSettings
from pivot_jax.probe.splits import Chosen, Labelled, LabelledImages, Splits
from pivot_jax.train.open import OpenEncoder, OpenModel

VISION = FeatureSettings()
LOGISTIC = ProbeSettings()
HEADS = SegmentSettings()


@dataclass(frozen=True)
class Classified:
    """A classification probe, with the sizes of its splits."""

    result: ProbeResult
    classes: tuple[str, ...]
    images: dict[str, int]  # split → images


def classify(
    encoder: OpenEncoder | OpenModel,
    data: str | Path | Mapping[str, tuple[Any, Sequence[Any]]],
    *,
    features: FeatureSettings = VISION,
    settings: ProbeSettings = LOGISTIC,
    per_class: int = 0,
    seed: int = 0,
    cache: str | Path | None = None,
) -> Classified:
    """Probe of image classes.

    Args:
      data: a folder (see ``class_sets``: class folders, TFDS, Parquet); or for ``train``, ``val`` and ``test`` images
        and their labels: uint8 [n, H, W, 3] as an encoder of squares takes them, or any references of images.
      features: of the encoder or after the projector, at which layer, and how they are pooled.
      settings: logistic regression, kNN, a linear probe by SGD, or prototypes, and what is chosen where.
      per_class: training images per class; 0: all. Those that a split of ``train`` chooses on are then as few.
      seed: of the split into train and val, the choice of images and the bootstrap.
      cache: folder that keeps the features (see ``feature_cache``).

    Raises:
      UserError: missing or unreadable images, fewer than two classes, or features that the encoder does not have.
    """
    _check_encoder(encoder)
    if isinstance(data, Mapping):
        splits = {split: LabelledImages(images, tuple(labels)) for split, (images, labels) in data.items()}
        names = tuple(str(name) for name in np.unique(np.asarray(splits["train"].labels)))
    else:
        splits, names = labelled_images(data, per_class, seed)
    result = classification.run(Splits(**labelled_features(encoder, features, splits, cache)), settings, seed=seed)
    return Classified(result, names, {split: len(part) for split, part in splits.items()})


def segment(
    encoder: OpenEncoder | OpenModel,
    data: str | Path,
    classes: Sequence[str] = (),
    *,
    features: FeatureSettings = VISION,
    settings: SegmentSettings = HEADS,
    ignore: int | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
) -> SegmentResult:
    """Segmentation probe on images and masks (see ``mask_sets``).

    Args:
      classes: names in the order of their ids in the masks; (): those of the layout (ADE20K, VOC).
      features: per patch; their pooling has no effect.
      settings: the head, how it is trained, and how many.
      ignore: id of pixels that do not count; None: that of the layout (VOC), or none.
      seed: of the split into train and val.
      cache: folder that keeps the features (see ``feature_cache``).

    Raises:
      UserError: missing or unreadable files, or no class names.
    """
    _check_encoder(encoder)
    found = mask_sets.segmentation(data, seed)
    names = tuple(classes) or found.classes
    if not names:
        raise UserError(f"{data}: this layout names no classes; name them with --classes (classes=), in id order")
    per_patch = FeatureSettings(features.where, features.layer, "none")
    parts = {}
    for name, one in _features(encoder, per_patch, found.splits, cache, settings.change).items():
        split = found.splits[name]
        parts[name] = _labelled(one, split, mask_sets.masks(split, encoder.geometry, settings.change))
    unlabelled = found.ignore if ignore is None else ignore
    return segmentation.run(Splits(**parts), settings, classes=names, ignore=unlabelled)


def labelled_images(
    data: str | Path, per_class: int = 0, seed: int = 0
) -> tuple[dict[str, LabelledImages], tuple[str, ...]]:
    """Splits of a folder with ``per_class`` training images of a class (0: all), and the class names."""
    splits, names = class_sets.classification(data, seed)
    return (_balanced(splits, names, per_class, seed) if per_class else splits), names


def labelled_features(
    encoder: OpenEncoder | OpenModel,
    settings: FeatureSettings,
    splits: dict[str, LabelledImages],
    cache: str | Path | None,
) -> dict[str, Labelled]:
    """Features and class numbers of the splits. Raises as :func:`classify`."""
    _check_encoder(encoder)
    found = _features(encoder, settings, splits, cache)
    return {name: _labelled(one, splits[name], np.asarray(splits[name].labels)) for name, one in found.items()}


def _check_encoder(encoder: Any) -> None:
    if isinstance(encoder, str):
        raise UserError(f"encoder: '{encoder}' is a weight source; write pj.load({encoder!r})")


def _balanced(
    splits: dict[str, LabelledImages], names: Sequence[str], per_class: int, seed: int
) -> dict[str, LabelledImages]:
    """``per_class`` training images of a class, as a set of their own; a val that is a part of train as small."""

    def few(split: LabelledImages, most: bool) -> LabelledImages:
        labels = np.asarray(names)[np.asarray(split.labels)]  # names, for the message
        return split.take(classification.balanced(labels, per_class, seed=seed, at_most=most)).alone()

    out = splits | {"train": few(splits["train"], False)}
    return out | {"val": few(splits["val"], True)} if splits["val"].whole is not None else out


def _features(
    encoder: OpenEncoder | OpenModel,
    settings: FeatureSettings,
    splits: dict[str, LabelledImages],
    cache: str | Path | None,
    change: Change | None = None,
) -> dict[str, ImageFeatures]:
    """Features of each split's images. Splits that are parts of one set share its features."""
    whole: dict[int, ImageFeatures] = {}
    for name in ("train", "val", "test"):
        source = splits[name].whole or splits[name]
        if id(source) not in whole:
            images = ImageSet(source.images, encoder.geometry, source.fingerprint, change)
            whole[id(source)] = read_features(encoder, images, settings, cache, label=name)
    return {name: whole[id(splits[name].whole or splits[name])] for name in ("train", "val", "test")}


def _labelled(found: ImageFeatures, split: LabelledImages, labels: Any) -> Labelled:
    if split.rows is None:
        return Labelled(found.values, labels, found.positions)
    positions = None if found.positions is None else found.positions[split.rows]
    return Labelled(Chosen(found.values, split.rows), labels, positions)
