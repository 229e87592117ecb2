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
from pivot_jax.probe import alignment, classification, features, folders, segmentation, text_features
from pivot_jax.probe.alignment import Alignment
from pivot_jax.probe.alignment_metrics import METRICS
from pivot_jax.probe.classification import ProbeResult
from pivot_jax.probe.segmentation import SegmentResult
from pivot_jax.probe.splits import Labelled, Splits
from pivot_jax.train.open import OpenEncoder, OpenLanguageModel, OpenModel
from pivot_jax.words import counted

FEATURES = {"vision": features.vit_encoder, "projector": features.projector_encoder}
CLAMPS: dict[str, dict[str, Any]] = {"exact": {}, "items": {"exact": False}, "none": {"quantile": 1.0}}


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


def align(
    encoder: OpenEncoder | OpenModel,
    data: str | Path,
    text: str | Path | OpenLanguageModel | OpenModel,
    *,
    metric: str = "mutual_knn",
    k: int = 10,
    pool: str = "mean",
    clamp: str = "exact",
) -> Alignment:
    """Alignment of every encoder block, averaged over patches, with every layer of a language model.

    Args:
      data: LLaVA rows with an image each; the last answer of a row is its caption.
      text: a language model, which reads the captions; or a .npy file of its features, float32 [items, layers, width],
        in the order of ``data``.
      metric: a key of ``alignment_metrics.METRICS``. k: neighbours, where it has them.
      pool: ``mean`` over a caption's tokens, or the ``last`` token; of no effect on a .npy file.
      clamp: how outliers are found, ``exact``, ``items`` or ``none`` (see ``alignment.clamp_outliers``).

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
    paths, captions = _captioned(data)
    _check_items(data, len(paths), metric, k)
    if isinstance(text, (str, Path)):
        words = _text_features(text)
        if len(words) != len(paths):
            raise UserError(f"{text}: shape {words.shape}; [{len(paths)}, layers, width] is needed for {data}")
    else:
        words = text_features.extract(text, captions, pool=pool)
    images = folders.ImageFiles(paths, encoder.geometry)
    blocks: Any = features.blocks_encoder(encoder.module)  # type: ignore[arg-type]  # an MLLM encodes as its encoder does
    layers = features.extract(blocks, encoder.params, images, pool="none")
    try:
        return alignment.align(layers, words, metric=metric, k=k, **CLAMPS[clamp])
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


def _captioned(data: str | Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
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
