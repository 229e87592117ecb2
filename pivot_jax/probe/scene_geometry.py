"""Depth and correspondence: what an encoder's patches know of distances, and of what is the same in two views.

Both are measured on rendered views (``data.scenes.views``), where the truth is known at every pixel, without keypoints
and without a sensor's errors. Letters: n images, p patches, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pivot_jax.data.scenes.views import Views, draw_views
from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.probe.feature_cache import read_features
from pivot_jax.probe.feature_settings import FeatureSettings
from pivot_jax.probe.image_sets import ImageSet
from pivot_jax.probe.zero_shot import unit
from pivot_jax.train.open import OpenEncoder, OpenModel

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
WITHIN = 1.25  # δ of Eigen et al. 2014: a distance counts as right within this factor
COVERED = 0.5  # of a patch, from which it counts as one of a thing
SIZES = {"train": 300, "val": 60, "test": 150}


@dataclass(frozen=True)
class Depth:
    """Distances of patches by ridge regression on their features. Intervals are over images.

    Attributes:
      within: share of patches within a factor of 1.25; things: the same of those on things alone.
      error: mean |predicted - true| / true.
      position_within, position_things: what the place of a patch in the image alone gives, without its features.
      penalty: chosen on validation images.
      items: [n] per test image, of ``within``.
    """

    within: Interval
    things: Interval
    error: Interval
    position_within: float
    position_things: float
    penalty: float
    items: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Correspondence:
    """Whether the most similar patch of the other view is on the same thing. Intervals are over pairs of views.

    Attributes:
      value: share of the patches on things that are visible in both views.
      same_place: the share that taking the patch at the same place gives.
      chance: the share that a random patch gives.
      items: [pairs].
    """

    value: Interval
    same_place: float
    chance: float
    items: np.ndarray = field(repr=False)


def scene_views(side: int, seed: int = 0, sizes: dict[str, int] | None = None) -> dict[str, Views]:
    """``train``, ``val`` and ``test`` views for :func:`depth` and :func:`correspondence`."""
    counts = SIZES | (sizes or {})
    return {name: draw_views(count, side, 1000 * seed + i) for i, (name, count) in enumerate(counts.items())}


def depth(encoder: OpenEncoder | OpenModel, views: dict[str, Views], settings: FeatureSettings | None = None) -> Depth:
    """Fits log distances of patches on the first views of ``train``, chooses the penalty on ``val``, scores ``test``.

    Raises:
      UserError: features that this encoder does not have, pooled ones, or patches larger than all things.
    """
    settings = settings or FeatureSettings(pool="none")
    parts = {name: _patches(encoder, found.images[:, 0], settings) for name, found in views.items()}
    truth = {name: [_mean(one, g) for one, g in zip(found.distances[:, 0], parts[name][1], strict=True)]
             for name, found in views.items()}  # fmt: skip
    on_things = [
        _mean(one > 0, grid) >= COVERED
        for one, grid in zip(views["test"].instances[:, 0], parts["test"][1], strict=True)
    ]
    found, penalty = _regression({name: values for name, (values, _) in parts.items()}, truth)
    places = {name: [_place(grid) for grid in grids] for name, (_, grids) in parts.items()}
    by_place, _ = _regression(places, truth)
    true = truth["test"]
    return Depth(
        within=statistics.mean(_share(found, true)),
        things=_over(_share(found, true, on_things)),
        error=statistics.mean(np.asarray([(np.abs(f - t) / t).mean() for f, t in zip(found, true, strict=True)])),
        position_within=float(_share(by_place, true).mean()),
        position_things=float(np.nanmean(_share(by_place, true, on_things))),
        penalty=penalty,
        items=_share(found, true),
    )


def correspondence(
    encoder: OpenEncoder | OpenModel, views: Views, settings: FeatureSettings | None = None
) -> Correspondence:
    """Matches the patches of each first view to those of the second by the cosine of their features.

    Raises:
      UserError: features that this encoder does not have, or no thing that is visible in both views of a pair.
    """
    settings = settings or FeatureSettings(pool="none")
    first, second = (_patches(encoder, views.images[:, side], settings) for side in (0, 1))
    right, same_place, chance = [], [], []
    for index in range(len(views.images)):
        (one, grid), (two, other) = ((part[0][index], part[1][index]) for part in (first, second))
        here = _thing(views.instances[index, 0], grid)
        there = _thing(views.instances[index, 1], other)
        asked = np.flatnonzero((here > 0) & np.isin(here, there))
        if not len(asked):
            continue
        nearest = (unit(one[asked]) @ unit(two).T).argmax(1)
        right.append((there[nearest] == here[asked]).mean())
        same_place.append((there[np.minimum(asked, len(there) - 1)] == here[asked]).mean())
        chance.append(np.mean([(there == thing).mean() for thing in here[asked]]))
    if not right:
        raise UserError("correspondence: no thing is visible in both views; draw more views")
    items = np.asarray(right)
    return Correspondence(statistics.mean(items), float(np.mean(same_place)), float(np.mean(chance)), items)


Grid = tuple[int, int]  # rows and columns of an image's patches


def _patches(encoder: Any, images: np.ndarray, settings: FeatureSettings) -> tuple[list[np.ndarray], list[Grid]]:
    """Features [p, d] of each image without padding, in rows, and its grid."""
    if settings.pool != "none":
        raise UserError(f"pool {settings.pool}: depth and correspondence are of patches; use none")
    found = read_features(encoder, ImageSet(list(images), encoder.geometry), settings, show=False)
    values, grids = [], []
    for index, features in enumerate(np.asarray(found.values)):
        if found.positions is None:
            side = round(len(features) ** 0.5)
            values.append(features)
            grids.append((side, side))
            continue
        places = np.asarray(found.positions[index])
        real = places[:, 0] >= 0
        order = np.lexsort((places[real, 1], places[real, 0]))
        values.append(features[real][order])
        rows, columns = (int(last) + 1 for last in places[real].max(0))
        grids.append((rows, columns))
    return values, grids


def _blocks(image: np.ndarray, grid: Grid) -> list[np.ndarray]:
    """The pixels of each patch, in rows."""
    return [part for row in np.array_split(image, grid[0], 0) for part in np.array_split(row, grid[1], 1)]


def _mean(image: np.ndarray, grid: Grid) -> np.ndarray:
    return np.asarray([block.mean() for block in _blocks(image, grid)])


def _thing(instances: np.ndarray, grid: Grid) -> np.ndarray:
    """The thing that covers at least half of each patch, 0 where none does."""
    counts = (np.bincount(block.ravel()) for block in _blocks(instances, grid))
    return np.asarray([c.argmax() if c.max() >= COVERED * c.sum() else 0 for c in counts])


def _place(grid: Grid) -> np.ndarray:
    """Row and column of each patch as polynomials: [p, 9]."""
    y, x = (axis.ravel() for axis in np.meshgrid(*(np.linspace(0, 1, side) for side in grid), indexing="ij"))
    return np.stack([y**i * x**j for i in range(3) for j in range(3)], 1)


def _regression(
    parts: dict[str, list[np.ndarray]], truth: dict[str, list[np.ndarray]]
) -> tuple[list[np.ndarray], float]:
    """Predicted distances of the test images' patches, and the penalty chosen on validation images."""
    x, y = np.concatenate(parts["train"]).astype(np.float64), np.log(np.concatenate(truth["train"]))
    centre, scale, level = x.mean(0), x.std(0) + 1e-9, y.mean()
    x = (x - centre) / scale
    gram, right = x.T @ x / len(x), x.T @ (y - level) / len(x)

    def predict(weights: np.ndarray, name: str) -> list[np.ndarray]:
        return [np.exp((one - centre) / scale @ weights + level) for one in parts[name]]

    best: tuple[float, float, np.ndarray] | None = None
    for penalty in PENALTIES:
        weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), right)
        errors = (np.log(f / t) for f, t in zip(predict(weights, "val"), truth["val"], strict=True))
        loss = float(np.mean([np.square(error).mean() for error in errors]))
        if best is None or loss < best[0]:
            best = loss, penalty, weights
    assert best is not None
    return predict(best[2], "test"), best[1]


def _share(
    found: Sequence[np.ndarray], true: Sequence[np.ndarray], where: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """Share of an image's patches within the factor: [n]; NaN where ``where`` has none of them."""
    out = []
    for index, (f, t) in enumerate(zip(found, true, strict=True)):
        right = np.maximum(f / t, t / f) < WITHIN
        chosen = right if where is None else right[where[index]]
        out.append(chosen.mean() if len(chosen) else np.nan)
    return np.asarray(out)


def _over(shares: np.ndarray) -> Interval:
    if not np.isfinite(shares).any():
        raise UserError(
            "depth: no patch is covered by a thing; the encoder's patches are too large, or draw more views"
        )
    return statistics.mean(shares[np.isfinite(shares)])
