"""Probes of an opened encoder on folders of labelled images: from files to a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data import sources
from pivot_jax.data.processing.images import preset_of
from pivot_jax.errors import RowError, UserError
from pivot_jax.probe import alignment, classification, features, folders, segmentation
from pivot_jax.probe.alignment import Alignment
from pivot_jax.probe.classification import ProbeResult
from pivot_jax.probe.segmentation import SegmentResult
from pivot_jax.probe.splits import Labelled, Splits
from pivot_jax.train.open import OpenEncoder, OpenModel
from pivot_jax.words import counted

FEATURES = {"vision": features.vit_encoder, "projector": features.projector_encoder}


@dataclass(frozen=True)
class Classified:
    """A classification probe, with the sizes of its splits."""

    result: ProbeResult
    classes: tuple[str, ...]
    images: dict[str, int]  # split → images


def classify(
    encoder: OpenEncoder | OpenModel,
    data: str | Path | Mapping[str, tuple[np.ndarray, Sequence[Any]]],
    *,
    kind: str = "vision",
    per_class: int = 0,
    seed: int = 0,
) -> Classified:
    """Logistic probe of image classes.

    Args:
      data: a folder ``{train,val,test}/CLASS/*`` (see ``folders.classification``); or for ``train``, ``val`` and
        ``test`` images as the encoder takes them, uint8 [n, H, W, 3], and their labels.
      kind: ``vision`` (patch features) or ``projector`` (image tokens that a decoder reads), averaged over patches.
      per_class: training images per class; 0: all.
      seed: of the split into train and val, the choice of images and the bootstrap.

    Raises:
      UserError: missing or unreadable images, fewer than two classes, or an encoder without a projector.
    """
    if isinstance(encoder, str):
        raise UserError(f"encoder: '{encoder}' is a weight source; write pj.load({encoder!r})")
    if isinstance(data, Mapping):
        arrays = {split: images for split, (images, _) in data.items()}
        labels_of = {split: np.asarray(labels) for split, (_, labels) in data.items()}
        names = tuple(str(name) for name in np.unique(labels_of["train"]))
        found = classification.probe(_features(encoder, kind, arrays, labels_of, "mean"), seed=seed)
        return Classified(found, names, {split: len(images) for split, images in arrays.items()})
    splits, names = folders.classification(data, seed)
    if per_class:
        labels = np.asarray(names)[np.asarray(splits["train"].labels)]  # names, for the message
        splits["train"] = splits["train"].take(classification.balanced(labels, per_class, seed=seed))
    labels_of = {split: np.asarray(files.labels) for split, files in splits.items()}
    found = classification.probe(_features(encoder, kind, _images(encoder, splits), labels_of, "mean"), seed=seed)
    return Classified(found, names, {split: len(files) for split, files in splits.items()})


def segment(
    encoder: OpenEncoder,
    data: str | Path,
    classes: Sequence[str],
    *,
    kind: str = "vision",
    head: str = "mlp",
    ignore: int | None = None,
    seeds: int = 3,
    seed: int = 0,
) -> SegmentResult:
    """Segmentation probe on images and masks (see ``folders.segmentation``).

    Args:
      classes: names in the order of their ids in the masks.
      kind: as for :func:`classify`, per patch.
      head: ``linear`` or ``mlp``. ignore: id of pixels that do not count.
      seeds: heads that are trained. seed: of the split into train and val.

    Raises:
      UserError: missing or unreadable files, or an encoder whose preset crops its images.
    """
    splits = folders.segmentation(data, seed)
    geometry = encoder.geometry
    if not preset_of(geometry.preset).squash:
        raise UserError(
            f"preset '{geometry.preset}' crops its images, so the masks would not fit; probe an encoder whose preset "
            "squashes them, such as siglip"
        )
    masks: dict[str, Any] = {
        split: folders.masks(files.labels, geometry.size)  # type: ignore[arg-type]
        for split, files in splits.items()
    }
    data_ = _features(encoder, kind, _images(encoder, splits), masks, "none")
    return segmentation.probe(data_, classes=tuple(classes), head=head, seeds=tuple(range(seeds)), ignore=ignore)


def align(encoder: OpenEncoder, data: str | Path, text_features: str | Path, *, k: int = 10) -> Alignment:
    """Mutual-kNN alignment of every encoder block with every layer of a language model's text features.

    Args:
      data: LLaVA rows with an image each.
      text_features: a .npy file, float32 [items, layers, width], in the order of ``data``.

    Raises:
      UserError: rows without an image, features of another shape, or ``k`` not below the number of rows.
    """
    paths, text = _captioned(data), _text_features(text_features)
    if len(text) != len(paths):
        raise UserError(f"{text_features}: shape {text.shape}; [{len(paths)}, layers, width] is needed for {data}")
    if not k < len(paths):
        raise UserError(
            f"k = {k}: {data} has {counted(len(paths), 'item')}; an item has at most {len(paths) - 1} others"
        )
    images = folders.ImageFiles(paths, encoder.geometry)
    layers = features.extract(features.blocks_encoder(encoder.module), encoder.params, images, pool="none")
    return alignment.align(layers, text, k=k)


def _captioned(data: str | Path) -> tuple[Path, ...]:
    """Image paths of LLaVA rows."""
    source = sources.read({"format": "llava", "path": str(data)})
    try:
        examples = [source[index] for index in range(len(source))]
    except RowError as error:
        raise UserError(f"{data}: {error}; LLaVA rows with 'image' and 'conversations' are needed") from None
    if bare := [example.id for example in examples if not example.images]:
        raise UserError(f"{data}: row '{bare[0]}' has no image; every row needs one to compare with its text")
    return tuple(Path(example.images[0]) for example in examples)


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


def _images(encoder: OpenEncoder | OpenModel, splits: dict[str, folders.Files]) -> dict[str, Any]:
    return {split: folders.ImageFiles(files.images, encoder.geometry) for split, files in splits.items()}


def _features(
    encoder: OpenEncoder | OpenModel, kind: str, images: dict[str, Any], labels: dict[str, np.ndarray], pool: str
) -> Splits:
    """Features of the splits' images, with their labels."""
    if kind not in FEATURES:
        raise UserError(f"features '{kind}' are unknown; choose one of {', '.join(FEATURES)}")
    if kind == "projector" and "projector" not in encoder.params:
        raise UserError(f"features projector: {encoder.name} has only the encoder; use vision")
    module: Any = encoder.module  # an MLLM encodes images as its encoder does
    encode, data = FEATURES[kind](module), {}
    for split in ("train", "val", "test"):
        found = features.extract(encode, encoder.params, images[split], pool=pool, label=split)
        data[split] = Labelled(found, labels[split])
    return Splits(**data)
