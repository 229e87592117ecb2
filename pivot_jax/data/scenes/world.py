"""The small world of the scenes: its things, their positions, and how hard they are to see.

A scene is a list of things on a noisy background. Layouts (which things at which places) fall into
:data:`FOLDS` folds by a hash of the layout, and every split draws from its own folds. So a held-out
image shows a combination that no training image showed. Handwritten digits are split by sample.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields

import numpy as np

from pivot_jax.errors import UserError

FOLDS = 10
DIGIT = "digit"
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 50, 45),
    "green": (50, 180, 70),
    "blue": (55, 90, 230),
    "yellow": (235, 215, 60),
    "purple": (165, 70, 200),
    "cyan": (60, 205, 215),
    "orange": (240, 140, 40),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
SIZES = ("small", "large")
PLACES = {
    2: ("top left", "top right", "bottom left", "bottom right"),
    3: (
        *("top left", "top center", "top right"),
        *("middle left", "middle center", "middle right"),
        *("bottom left", "bottom center", "bottom right"),
    ),
}
# Share of the questions by kind; kinds whose answer is hard to guess come first.
QUESTIONS = (
    ("color", 0.25),
    ("shape", 0.2),
    ("place", 0.15),
    ("count", 0.12),
    ("digit", 0.1),
    ("relation", 0.06),
    ("compare", 0.06),
    ("exists", 0.06),
)


@dataclass(frozen=True)
class World:
    """What scenes may hold. The defaults are the demo's easy world.

    ``grid`` cells per side hold at most one thing each (2 or 3); 0 places things freely, with at least
    ``1 - max_overlap`` of the touching distance between two of them. Lengths are in pixels, ``noise`` is the
    standard deviation of Gaussian noise in grey levels (of 255), ``jitter`` is a share of a cell.
    """

    image_size: int = 32
    grid: int = 2
    min_objects: int = 1
    max_objects: int = 3
    shapes: tuple[str, ...] = ("circle", "square", "triangle", "cross")
    colors: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "cyan")
    digit_share: float = 0.15  # of the things that are handwritten digits
    repeat_share: float = 0.25  # of the things that take colour or shape of an earlier thing (so that counts exceed 1)
    noise: float = 8.0
    jitter: float = 0.1
    max_overlap: float = 0.25
    # Questions per conversation. With few things, earlier answers give later ones away: more than one question teaches
    # to copy from the text rather than to look.
    turns: int = 1
    sentence_share: float = 0.2  # of the questions that are answered in a sentence
    describe_share: float = 0.5  # of the conversations that end with a description: many scored words per image
    reasoning_share: float = 0.0  # of the pairs whose answers come after a description in <think> tags
    questions: tuple[tuple[str, float], ...] = QUESTIONS

    def __post_init__(self) -> None:
        def need(ok: bool, what: str) -> None:
            if not ok:
                raise UserError(f"scenes world: {what}")

        need(self.grid in (0, 2, 3), f"grid is {self.grid}, allowed: 0 (free), 2, 3")
        cells = self.grid**2 or 8
        need(
            1 <= self.min_objects <= self.max_objects <= cells,
            f"objects {self.min_objects}..{self.max_objects}, allowed: 1 <= min_objects <= max_objects <= {cells}",
        )
        need(self.image_size >= 16, f"image_size is {self.image_size}, at least 16 is needed to draw a shape")
        for name, known in (("shapes", SHAPES), ("colors", tuple(COLORS))):
            values = getattr(self, name)
            need(
                len(values) >= 2 and set(values) <= set(known), f"{name} {values}: choose at least two of {list(known)}"
            )
        kinds = {kind for kind, _ in self.questions}
        need(kinds <= {kind for kind, _ in QUESTIONS}, f"questions {sorted(kinds)}: known are {dict(QUESTIONS)}")
        for field in fields(self):
            if field.name.endswith("_share"):
                value = getattr(self, field.name)
                need(0 <= value <= 1, f"{field.name} is {value}, allowed: 0 to 1")

    @property
    def regions(self) -> int:
        """Regions per side that have a name."""
        return self.grid or 2

    @property
    def places(self) -> tuple[str, ...]:
        return PLACES[self.regions]

    @property
    def cell(self) -> float:
        return self.image_size / self.regions

    @property
    def nouns(self) -> tuple[str, ...]:
        """Shape words in the order of the segmentation classes 1, 2, ...; 0 is background."""
        return (*self.shapes, DIGIT) if self.digit_share else self.shapes

    def place(self, x: float, y: float) -> str:
        """Name of the region that holds the point."""
        last = self.regions - 1
        column, row = (min(last, max(0, int(v / self.cell))) for v in (x, y))
        return self.places[row * self.regions + column]

    def diameter(self, size: str, shape: str) -> int:
        """Pixels across. Digits need more, or an 8-pixel one cannot be read."""
        share = {"small": 0.6, "large": 0.92}[size]
        return max(5, round(self.cell * (max(share, 0.8) if shape == DIGIT else share)))


@dataclass(frozen=True)
class Thing:
    """One object; ``x, y`` is the centre in pixels. ``value`` and ``sample`` are -1 unless it is a digit."""

    shape: str
    color: str
    size: str
    x: int
    y: int
    place: str
    value: int = -1
    sample: int = -1  # index into scikit-learn's digits set

    @property
    def phrase(self) -> str:
        """ "large red circle", "large red 7"."""
        return f"{self.size} {self.color} {self.value if self.shape == DIGIT else self.shape}"

    @property
    def short(self) -> str:
        return f"{self.color} {self.shape}"


Scene = tuple[Thing, ...]


def fold(scene: Scene) -> int:
    """Fold of a layout. It depends on the things and their places, not on jitter, noise or handwriting."""
    key = "|".join(sorted(f"{t.phrase} {t.place}" for t in scene))
    return zlib.crc32(key.encode()) % FOLDS


def place_things(world: World, count: int, rng: random.Random) -> list[tuple[int, int]]:
    """Centres of ``count`` things on the grid's cells, or free and not too near to each other."""
    half = world.cell / 2
    if world.grid:
        cells = rng.sample(range(world.grid**2), count)
        reach = world.jitter * world.cell
        return [
            (
                round((i % world.grid) * world.cell + half + rng.uniform(-reach, reach)),
                round((i // world.grid) * world.cell + half + rng.uniform(-reach, reach)),
            )
            for i in cells
        ]
    margin, apart = 0.4 * world.cell, 0.7 * world.cell * (1 - world.max_overlap)
    for _ in range(1000):
        spots = [
            (
                round(rng.uniform(margin, world.image_size - margin)),
                round(rng.uniform(margin, world.image_size - margin)),
            )
            for _ in range(count)
        ]
        gaps = [
            (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 >= apart**2 for i, a in enumerate(spots) for b in spots[i + 1 :]
        ]
        if all(gaps):
            return spots
    raise UserError(
        f"scenes world: {count} things do not fit freely into {world.image_size} pixels; "
        "lower max_objects or raise max_overlap"
    )


def sample_scene(
    world: World,
    rng: random.Random,
    folds: Collection[int],
    digits: dict[int, np.ndarray],
    accept: Callable[[Scene], bool] | None = None,
) -> Scene:
    """A random scene whose layout is in ``folds`` (and satisfies ``accept``); ``digits``: value → sample indices."""
    while True:
        scene: list[Thing] = []
        for x, y in place_things(world, rng.randint(world.min_objects, world.max_objects), rng):
            shape = DIGIT if rng.random() < world.digit_share else rng.choice(world.shapes)
            color = rng.choice(world.colors)
            if scene and rng.random() < world.repeat_share:
                other = rng.choice(scene)
                color, shape = (other.color, shape) if rng.random() < 0.5 else (color, other.shape)
            size = "large" if shape == DIGIT else rng.choice(SIZES)
            value = sample = -1
            if shape == DIGIT:
                value = rng.randrange(10)
                sample = int(rng.choice(digits[value]))
            scene.append(Thing(shape, color, size, x, y, world.place(x, y), value, sample))
        done = tuple(scene)
        if fold(done) in folds and (accept is None or accept(done)):
            return done
