"""Segmentation probe: a small head on frozen features of single patches, per-patch semantic segmentation.

Protocol of patch-seg (Covert et al. 2025), which the paper used: an MLP d → 1024 → C on patch tokens, *union* labels
(every class present in the patch; id 0 only where it is the only class), BCE with logits, macro recall over classes
with positives. In addition, the same head on *majority* labels with cross-entropy, scored by mean IoU over patches,
which false positives lower too. The epoch is chosen on a split that is not the reported one.

Letters: n images, p patches, d width, c classes, r seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.probe import heads
from pivot_jax.probe.heads import Training
from pivot_jax.probe.image_sets import CENTRAL_SQUARE, Change
from pivot_jax.probe.splits import Labelled, Splits

IGNORE = -1


@dataclass(frozen=True)
class SegmentSettings:
    """Which heads read the patches, and how they are trained.

    Attributes:
      head: "mlp" (d → hidden, GELU, → c) or "linear".
      seeds: of the heads that are trained.
      choose_on_test: choose the epoch on the reported images, as patch-seg does; the result is flagged.
      change: of images and masks before they are prepared.
    """

    head: str = "mlp"
    seeds: tuple[int, ...] = (0, 1, 2)
    training: Training = field(default_factory=Training)
    choose_on_test: bool = False
    change: Change | None = None


# Covert et al. 2025: the largest central square of an image, features as they are, six heads
PATCH_SEG = SegmentSettings("mlp", tuple(range(6)), Training(standardise=False), True, CENTRAL_SQUARE)


@dataclass(frozen=True)
class SegmentResult:
    """Outcome over all seeds. Shares are 0..1."""

    miou: float  # mean over seeds
    recall: float
    per_class: dict[str, float]  # IoU, mean over seeds, without classes that are in neither labels nor predictions
    interval: Interval  # of ``miou``, over test images; every draw averages the seeds
    recall_interval: Interval
    seeds: dict[str, tuple[float, ...]]  # "miou" and "recall" of each seed
    # Sums per seed and image, for paired comparisons between encoders (see ``difference``).
    overlap: np.ndarray  # float32 [r, n, c, 3] majority labels: patches correctly predicted, true, predicted
    hits: np.ndarray  # float32 [r, n, c, 2] union labels: patches found, patches with the class
    flags: tuple[str, ...] = field(default=())


def run(
    splits: Splits, settings: SegmentSettings, *, classes: Sequence[str], ignore: int | None = None
) -> SegmentResult:
    """The probe of the settings. Raises as :func:`probe`."""
    splits = replace(splits, val=splits.test) if settings.choose_on_test else splits
    return probe(
        splits, classes=classes, head=settings.head, seeds=settings.seeds, ignore=ignore, training=settings.training
    )


def probe(
    splits: Splits,
    *,
    classes: Sequence[str],
    head: str = "mlp",
    seeds: Sequence[int] = (0, 1, 2),
    ignore: int | None = None,
    training: Training | None = None,
    bootstrap_seed: int = 0,
) -> SegmentResult:
    """Trains a head per seed on patch features and scores it on ``test``.

    Args:
      splits: patch features [n, p, d] and masks, integer [n, H, W] of class ids in 0..c-1, where the encoder sees them;
        or one mask [H, W] per image, and the positions of its patches.
      classes: class names in id order.
      ignore: an id that means "no label" (CamVid's 11).
      head: "mlp" (d → 1024, GELU, → c) or "linear".

    Raises:
      UserError: shapes that do not match, or ids outside ``classes``.
    """
    count = len(classes)
    parts = splits.named()
    labels = {name: patch_labels(one, count, ignore, name) for name, one in parts.items()}
    training = training or Training()
    same = splits.val.features is splits.test.features
    flags = ["CHOSEN ON TEST: the epoch was chosen on the reported images"] if same else []
    data = {name: (np.asarray(one.features, np.float32), *labels[name]) for name, one in parts.items()}
    majority, union = heads.train(data, count, head, tuple(seeds), training)
    overlap = overlaps(majority, labels["test"][0], count)
    hits = union_hits(union, labels["test"][1])
    ious = per_class_iou(overlap.sum(1))
    mious = mean_iou(overlap.sum(1))
    recalls = recall_of(hits.sum(1))
    named = {name: float(iou) for name, iou in zip(classes, _nanmean(ious), strict=True) if np.isfinite(iou)}
    return SegmentResult(
        miou=float(mious.mean()),
        recall=float(recalls.mean()),
        per_class=named,
        interval=_over_images(overlap, mean_iou, bootstrap_seed),
        recall_interval=_over_images(hits, recall_of, bootstrap_seed),
        seeds={"miou": tuple(map(float, mious)), "recall": tuple(map(float, recalls))},
        overlap=overlap,
        hits=hits,
        flags=tuple(flags),
    )


def difference(first: SegmentResult, second: SegmentResult, metric: str = "miou", *, seed: int = 0) -> Interval:
    """``first`` − ``second`` on the same test images, resampling images jointly (paired bootstrap)."""
    if first.overlap.shape[1:] != second.overlap.shape[1:]:
        raise ValueError("a paired difference needs the same test images and classes in both results")
    score = {"miou": mean_iou, "recall": recall_of}[metric]
    name = {"miou": "overlap", "recall": "hits"}[metric]
    one, two = getattr(first, name), getattr(second, name)
    stacked = np.concatenate([one, two])  # seeds of both results, over the same resampled images
    count = len(one)
    return _over_images(stacked, score, seed, combine=lambda x: x[..., :count].mean(-1) - x[..., count:].mean(-1))


def patch_labels(
    part: Labelled, classes: int, ignore: int | None = None, name: str = "a"
) -> tuple[np.ndarray, np.ndarray]:
    """Majority and union labels of every patch.

    Returns:
      int32 [n, p] majority class, ``IGNORE`` where no pixel is labelled and at padding; bool [n, p, c] union labels.

    Raises:
      UserError: see :func:`probe`.
    """
    features, masks, positions = np.asarray(part.features), part.labels, part.positions
    shape = features.shape
    if len(shape) != 3 or len(masks) != shape[0] or shape[0] == 0 or any(np.ndim(mask) != 2 for mask in masks):
        shown = masks.shape if isinstance(masks, np.ndarray) else f"{len(masks)} masks"
        raise UserError(
            f"segmentation probe: {name} split has features {shape} and masks {shown}; need [n, p, d] and [n, H, W]"
        )
    if not np.isfinite(features).all():
        raise UserError(f"segmentation probe: {name} features hold NaN or infinity; the encoder is broken")
    counts = np.zeros((*shape[:2], classes), np.int32)
    for index, mask in enumerate(masks):
        _check_ids(np.asarray(mask), classes, ignore, name)
        if positions is None:
            side = round(shape[1] ** 0.5)
            counts[index] = pixel_counts(mask, (side, shape[1] // side), classes).reshape(-1, classes)
            continue
        real = positions[index, :, 0] >= 0
        rows, columns = positions[index, real].T
        counts[index, real] = pixel_counts(mask, (rows.max() + 1, columns.max() + 1), classes)[rows, columns]
    return majority_labels(counts), union_labels(counts)


def _check_ids(mask: np.ndarray, classes: int, ignore: int | None, name: str) -> None:
    known = mask if ignore is None else mask[mask != ignore]
    if known.size and (known.min() < 0 or known.max() >= classes):
        raise UserError(
            f"segmentation probe: {name} masks hold class {known.max() if known.max() >= classes else known.min()}, "
            f"but there are {classes} classes (0..{classes - 1}); name them all, or "
            "pass --ignore ID (ignore=ID) if it means unlabelled"
        )


def pixel_counts(mask: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """Pixels of each class in each patch: int32 [rows, columns, c]; ids outside 0..c-1 are not counted.

    A remainder of the mask beyond whole patches is not seen by the encoder and not counted.
    """
    (height, width), (rows, columns) = mask.shape, grid
    tall, wide = height // rows, width // columns
    if not tall or not wide or height // tall != rows or width // wide != columns:
        raise UserError(
            f"segmentation probe: masks of {height}x{width} do not divide into {rows}x{columns} patches; "
            "resize them (nearest) to the encoder's input"
        )
    used = np.asarray(mask)[: rows * tall, : columns * wide].astype(np.int64)
    patch = np.arange(rows * columns).reshape(rows, columns).repeat(tall, 0).repeat(wide, 1)
    kept = (used >= 0) & (used < classes)
    counts = np.bincount((patch * classes + used)[kept], minlength=rows * columns * classes)
    return counts.reshape(rows, columns, classes).astype(np.int32)


def majority_labels(counts: np.ndarray) -> np.ndarray:
    """Most frequent class per patch (the smallest id in a tie), ``IGNORE`` where no pixel is labelled: int32 [n, p]."""
    return np.where(counts.sum(-1) > 0, counts.argmax(-1), IGNORE).astype(np.int32)


def union_labels(counts: np.ndarray) -> np.ndarray:
    """Every class present: bool [n, p, c]. Id 0 ("other") counts only where it is alone: {0, 5} → {5}, {0} → {0}."""
    present = counts > 0
    present[..., 0] &= ~present[..., 1:].any(-1)
    return present


def overlaps(predicted: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    """Patches of each class per seed and image: correctly predicted, true, predicted. Ignored patches do not count.

    Args:
      predicted: int [r, n, p]. true: int [n, p].

    Returns:
      float32 [r, n, c, 3].
    """
    kept = (true != IGNORE)[None]
    out = np.zeros((*predicted.shape[:2], classes, 3), np.float32)
    for label in range(classes):
        here, said = (true == label)[None] & kept, (predicted == label) & kept
        out[:, :, label, 0] = (here & said).sum(-1)
        out[:, :, label, 1] = here.sum(-1)
        out[:, :, label, 2] = said.sum(-1)
    return out


def union_hits(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Patches where each class was found, and where it is: bool [r, n, p, c] and [n, p, c] → [r, n, c, 2]."""
    found = (predicted & true[None]).sum(2)
    there = np.broadcast_to(true.sum(1)[None], found.shape)
    return np.stack([found, there], axis=-1).astype(np.float32)


def per_class_iou(overlap: np.ndarray) -> np.ndarray:
    """Intersection over union [..., c] of :func:`overlaps` sums; NaN for a class neither true nor predicted."""
    both = overlap[..., 0]
    either = overlap[..., 1] + overlap[..., 2] - both
    return np.divide(both, either, out=np.full(both.shape, np.nan), where=either > 0)


def mean_iou(overlap: np.ndarray) -> np.ndarray:
    """Mean of :func:`per_class_iou` over the classes that occur: [..., c, 3] → [...]."""
    return _nanmean(per_class_iou(overlap), axis=-1)


def recall_of(hits: np.ndarray) -> np.ndarray:
    """Macro recall [...] of hits [..., c, 2]: mean over the classes that have positives."""
    found, there = hits[..., 0], hits[..., 1]
    recall = np.divide(found, there, out=np.full(found.shape, np.nan), where=there > 0)
    return _nanmean(recall, axis=-1)


def _over_images(per_image: np.ndarray, score, seed: int, combine=lambda values: values.mean(-1)) -> Interval:
    """Bootstrap over images of a score averaged over seeds: [r, n, ...] → interval. Seeds share the draws."""
    by_image = np.moveaxis(per_image, 1, 0)
    return statistics.bootstrap(by_image, lambda sums: combine(score(sums)), draws=1000, seed=seed)


def _nanmean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean of the values that are not NaN; NaN, without a warning, where there are none."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis)
    return np.divide(total, known.sum(axis), out=np.full(np.shape(total), np.nan), where=known.sum(axis) > 0)
