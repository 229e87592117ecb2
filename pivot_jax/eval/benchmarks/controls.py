"""Changes to all questions of a benchmark, which say what its score is worth.

The blank image is not here: it is the answerer's (``Answerer.blank_images``), as it depends on the preprocessing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pivot_jax.errors import UserError, suggest
from pivot_jax.eval.benchmarks.base import Item, Items
from pivot_jax.eval.scoring.aggregate import Aggregate, grouped, positions
from pivot_jax.eval.scoring.parse import LETTERS

SEED = 0


@dataclass(frozen=True)
class Control:
    """A change to all questions.

    Attributes:
      aggregate: in place of the benchmark's; None: as it is.
    """

    items: Callable[[Items], Items]
    aggregate: Aggregate | None = None


class ShuffledImages:
    """Every question about another question's images: what is right then was not seen.

    Raises:
      UserError: questions whose images are all the same.
    """

    def __init__(self, items: Items):
        self.items = items
        self._taken_from: dict[int, int] = {}
        keys = [tuple(map(_key, items[index].images)) for index in range(len(items))]
        generator = np.random.default_rng(SEED)
        for count, own in positions([len(key) for key in keys]).items():
            if not count:
                continue
            same = list(positions([keys[index] for index in own]).values())
            if len(same) < 2:
                raise UserError("control shuffled-images: there is no question with other images to take them from")
            # Each set of images in a random circle is replaced by its neighbour, so none stays where it was.
            circle = generator.permutation(len(same))
            for here, there in zip(circle, np.roll(circle, 1), strict=True):
                self._taken_from |= {own[index]: own[same[there][0]] for index in same[here]}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        item = self.items[index]
        return replace(item, images=self.items[self._taken_from[index]].images) if item.images else item


class RotatedOptions:
    """Every question once per option, the options rotated, so that the right one has every letter.

    As MMBench's circular evaluation (Liu et al. 2024), for any benchmark with options: a question counts where the
    answer is right in every order.

    Raises:
      UserError: the questions have no options.
    """

    def __init__(self, items: Items):
        self.items = items
        counts = [len(items[index].choices) for index in range(len(items))]
        if max(counts, default=0) < 2:
            raise UserError("control rotated-options: the questions of this benchmark have no options")
        self._turns = [(index, turn) for index, count in enumerate(counts) for turn in range(max(1, count))]

    def __len__(self) -> int:
        return len(self._turns)

    def __getitem__(self, index: int) -> Item:
        which, turn = self._turns[index]
        item = self.items[which]
        choices = item.choices[turn:] + item.choices[:turn]
        answers = tuple(_letter_after(answer, turn, len(choices)) for answer in item.answers)
        name = f"{item.id}#{turn}" if turn else item.id
        return replace(item, id=name, choices=choices, answers=answers, unit=item.id, text="")


def _letter_after(answer: str, turn: int, count: int) -> str:
    index = LETTERS.find(answer) if len(answer) == 1 else -1
    return LETTERS[(index - turn) % count] if 0 <= index < count else answer


def _key(image: Any) -> Any:
    """What tells an image from others, and is small."""
    if isinstance(image, np.ndarray):
        return zlib.crc32(image.tobytes())
    return zlib.crc32(image) if isinstance(image, bytes) else image


CONTROLS: dict[str, Control] = {
    "shuffled-images": Control(ShuffledImages),
    "rotated-options": Control(RotatedOptions, grouped("circular_accuracy")),
}


def find(name: str) -> Control:
    """The control of that name.

    Raises:
      UserError: there is none; the message lists the names.
    """
    if name not in CONTROLS:
        raise UserError(f"control '{name}' is unknown; there are {', '.join(CONTROLS)}{suggest(name, CONTROLS)}")
    return CONTROLS[name]
