"""Two views of things that stand on a plane, with the distance of every pixel: for probes of depth and correspondence.

The camera looks along the plane. A thing's distance sets its size and where it stands in the image, and nearer things
hide farther ones. The second view is from a step to the side, so a thing moves the more the nearer it is. Distances
are in units of the distance at the lower edge of the image; the sky is at :data:`FAR`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from pivot_jax.data.scenes.draw import sprite
from pivot_jax.data.scenes.world import COLORS, SHAPES

FAR = 8.0
HORIZON = 0.3  # of the side, from above
STEP = 0.5  # of the side: how far a thing at distance 1 moves from the first view to the second
THINGS = (3, 5)
NEAREST, FARTHEST = 1.3, 6.0
HEIGHT = 0.55  # of the side, of a thing at distance 1


@dataclass(frozen=True)
class Views:
    """n pairs of views. Instances are 0 on ground and sky, and the same number in both views of a pair.

    Attributes:
      images: uint8 [n, 2, s, s, 3].
      instances: uint8 [n, 2, s, s].
      distances: float32 [n, 2, s, s].
    """

    images: np.ndarray
    instances: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class _Thing:
    shape: str
    color: tuple[int, int, int]
    x: float  # of the side, in the first view
    distance: float


def draw_views(count: int, side: int, seed: int) -> Views:
    """``count`` pairs of ``side`` pixels. Pair i depends on the seed and on i alone."""
    pairs = [_pair(side, random.Random(f"{seed}/{i}"), np.random.default_rng([seed, i])) for i in range(count)]
    images, instances, distances = (np.stack([pair[part] for pair in pairs]) for part in range(3))
    return Views(images, instances, distances)


def _pair(side: int, rng: random.Random, pixels: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    things = []
    for _ in range(rng.randint(*THINGS)):
        # Distances are even in 1 / distance, as rows of the image are, so that far things are not the most.
        distance = 1 / rng.uniform(1 / FARTHEST, 1 / NEAREST)
        color = COLORS[rng.choice(list(COLORS))]
        things.append(_Thing(rng.choice(SHAPES), color, rng.uniform(0.1, 0.9), distance))
    things.sort(key=lambda thing: -thing.distance)
    ground, sky = pixels.uniform(60, 110, 3), pixels.uniform(10, 50, 3)
    views = [_view(side, things, shift, ground, sky, pixels) for shift in (0.0, STEP)]
    return tuple(np.stack([view[part] for view in views]) for part in range(3))  # type: ignore[return-value]


def _view(
    side: int, things: list[_Thing], shift: float, ground: np.ndarray, sky: np.ndarray, pixels: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    top = HORIZON * side
    rows = np.arange(side) + 0.5
    row_distance = np.where(rows > top, np.minimum((side - top) / np.maximum(rows - top, 1e-6), FAR), FAR)
    distances = np.repeat(row_distance[:, None], side, 1).astype(np.float32)
    canvas = np.where((rows > top)[:, None, None], ground, sky) * np.ones((side, side, 1))
    instances = np.zeros((side, side), np.uint8)
    for number, thing in enumerate(things, 1):
        size = max(3, round(HEIGHT * side / thing.distance))
        foot = top + (side - top) / thing.distance
        left, above = round((thing.x + (shift - STEP / 2) / thing.distance) * side - size / 2), round(foot) - size
        ys, xs = slice(max(0, above), min(side, above + size)), slice(max(0, left), min(side, left + size))
        if ys.start >= ys.stop or xs.start >= xs.stop:
            continue
        part = sprite(thing.shape, size, -1)[ys.start - above : ys.stop - above, xs.start - left : xs.stop - left]
        canvas[ys, xs] += part[..., None] * (np.asarray(thing.color) - canvas[ys, xs])
        covered = part >= 0.5
        instances[ys, xs][covered] = number
        distances[ys, xs][covered] = thing.distance
    noisy = canvas + 6 * pixels.standard_normal(canvas.shape)
    return noisy.clip(0, 255).astype(np.uint8), instances, distances
