"""Rendered geometry: figures on a lattice of unit squares, and questions about them whose answers are whole numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from pivot_jax.data.draws import draw

SUPERSAMPLE = 4  # figures are drawn this many times larger and averaged down
FOLDS = 10  # layouts are dealt to folds by hash
SPLITS: Mapping[str, tuple[int, ...]] = {"train": (0, 1, 2, 3, 4, 5, 6, 7), "validation": (8,), "test": (9,)}
COLORS = ((200, 60, 60), (60, 120, 200), (60, 160, 80), (210, 150, 40), (140, 80, 180))
FIGURES = ("rectangle", "triangle", "corner")
QUESTIONS: Mapping[str, str] = {
    "area": "What is the area of the {figure}, in unit squares?",
    "perimeter": "What is the perimeter of the {figure}, in units?",
    "sides": "How many sides does the figure have?",
}
NAMES = {"rectangle": "rectangle", "triangle": "right triangle", "corner": "L-shape"}


class Layout(NamedTuple):
    """A figure on the lattice, in units: ``width`` by ``height`` at (x, y), counted from the upper left.

    A triangle has its right angle in a corner of that box; of an L-shape (``corner``), ``notch`` (width, height) is cut
    out of a corner. ``turn`` 0..3 says which corner, clockwise from the upper left; a rectangle has turn 0.
    """

    figure: str
    width: int
    height: int
    x: int
    y: int
    turn: int = 0
    notch: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Problem:
    """A question about a layout.

    Attributes:
      answer: a whole number. working: how it is found, such as ``4 x 3 = 12``.
    """

    layout: Layout
    kind: str
    text: str
    answer: int
    working: str


def layouts(grid: int, split: str) -> Iterator[Layout]:
    """All layouts of a split on a lattice of ``grid`` x ``grid`` unit squares. No two splits share one."""
    for figure in FIGURES:
        for one in _all(figure, grid):
            if draw(0, "geometry", grid, *one) % FOLDS in SPLITS[split]:
                yield one


def _all(figure: str, grid: int) -> Iterator[Layout]:
    sides = range(1, grid + 1)
    for width, height in ((w, h) for w in sides for h in sides):
        for x, y in ((x, y) for x in range(grid - width + 1) for y in range(grid - height + 1)):
            if figure == "rectangle":
                yield Layout(figure, width, height, x, y)
                continue
            for turn in range(4):
                if figure == "triangle":
                    yield Layout(figure, width, height, x, y, turn)
                    continue
                for notch in ((a, b) for a in range(1, width) for b in range(1, height)):
                    yield Layout(figure, width, height, x, y, turn, notch)


def problems(layout: Layout) -> list[Problem]:
    """Every question that has a whole number as its answer."""
    width, height, (a, b) = layout.width, layout.height, layout.notch
    found: dict[str, tuple[int, str]] = {}
    if layout.figure == "rectangle":
        found["area"] = (width * height, f"{width} x {height} = {width * height}")
        found["sides"] = (4, "a rectangle has 4")
    elif layout.figure == "triangle":
        if width * height % 2 == 0:
            found["area"] = (width * height // 2, f"{width} x {height} / 2 = {width * height // 2}")
        found["sides"] = (3, "a triangle has 3")
    else:
        area = width * height - a * b
        found["area"] = (area, f"{width} x {height} - {a} x {b} = {area}")
        found["sides"] = (6, "an L-shape has 6")
    if layout.figure != "triangle":  # of an L-shape the same as of its box
        around = 2 * (width + height)
        found["perimeter"] = (around, f"2 x ({width} + {height}) = {around}")
    name = NAMES[layout.figure]
    return [Problem(layout, kind, QUESTIONS[kind].format(figure=name), *one) for kind, one in found.items()]


def outline(layout: Layout) -> list[tuple[int, int]]:
    """Corners of the figure on the lattice, clockwise."""
    width, height, (a, b) = layout.width, layout.height, layout.notch
    # Where the corner in question is the upper left one; the other turns are mirror images.
    if layout.figure == "rectangle":
        corners = [(0, 0), (width, 0), (width, height), (0, height)]
    elif layout.figure == "triangle":
        corners = [(0, 0), (width, 0), (0, height)]
    else:
        corners = [(a, 0), (width, 0), (width, height), (0, height), (0, b), (a, b)]
    across, down = layout.turn in (1, 2), layout.turn in (2, 3)
    return [(layout.x + (width - x if across else x), layout.y + (height - y if down else y)) for x, y in corners]


def render(layout: Layout, grid: int, size: int, rng: random.Random, pixels: np.random.Generator) -> np.ndarray:
    """The figure in a random colour on a faint lattice, with a little noise: uint8 [size, size, 3]."""
    scale = size * SUPERSAMPLE / grid
    canvas = Image.new("RGB", (size * SUPERSAMPLE,) * 2, (255, 255, 255))
    pen = ImageDraw.Draw(canvas)
    color = rng.choice(COLORS)
    corners = [(x * scale, y * scale) for x, y in outline(layout)]
    pen.polygon(corners, fill=tuple(255 - (255 - value) // 3 for value in color))
    for line in range(grid + 1):
        at = line * scale
        pen.line([(at, 0), (at, size * SUPERSAMPLE)], fill=(205, 205, 205), width=SUPERSAMPLE // 2)
        pen.line([(0, at), (size * SUPERSAMPLE, at)], fill=(205, 205, 205), width=SUPERSAMPLE // 2)
    pen.line([*corners, corners[0]], fill=color, width=SUPERSAMPLE, joint="curve")
    image = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), float)
    return np.clip(image + pixels.normal(0.0, 4.0, image.shape), 0, 255).round().astype(np.uint8)
