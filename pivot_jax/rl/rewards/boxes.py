"""Bounding boxes: intersection over union with the gold box."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite
from typing import Any, Literal

from pivot_jax.rl.rewards.completion import Completion, gold_of, tagged_answer

Box = tuple[float, float, float, float]  # x1, y1, x2, y2: left, top, right, bottom
Coordinates = Literal["original", "resized", "thousandths", "unit"]

_NUMBER = r" ?[\[(]? ?([-+]?\d{1,9}(?:\.\d{1,9})?) ?[\])]? ?"
_BOX = re.compile(r"[\[(]" + ",".join([_NUMBER] * 4) + r"[\])]")


def box(
    item: Completion,
    *,
    column: str = "box",
    coordinates: Coordinates = "original",
    size_column: str = "image_size",
    resized_column: str = "resized_size",
    threshold: float = 0.0,
) -> float | None:
    """Intersection over union of the last box in the answer and the gold box, 0..1; 0 where there is no box.

    The answer is what ``<answer>`` tags enclose, or the whole text. A box is four numbers in brackets, such as
    ``[10, 20, 110, 220]`` or ``(10,20),(110,220)``.

    Args:
      column: the gold box (x1, y1, x2, y2), in pixels of the original image.
      coordinates: what the model's numbers are. ``original``: pixels of the original image. ``resized``: pixels of the
        image as the model reads it (Qwen2.5-VL). Without mapping them back the overlap is wrong wherever an image is
        resized (VLM-R1 issue 44). ``thousandths``: 0..1000 of width and height (Qwen2-VL). ``unit``: 0..1.
      size_column: (width, height) of the original image in pixels; read unless ``coordinates`` is ``original``.
      resized_column: (width, height) of the image as the model reads it; read if ``coordinates`` is ``resized``.
      threshold: 0 gives the overlap itself, a larger one 1 where the overlap is at least this, else 0.
    """
    gold = as_box(gold_of(item, column))
    if gold is None:
        return None
    tagged = tagged_answer(item.text)
    answer = read_box(item.text if tagged is None else tagged)
    if answer is None:
        return 0.0
    scale = _scale(item, coordinates, size_column, resized_column)
    overlap = iou((answer[0] * scale[0], answer[1] * scale[1], answer[2] * scale[0], answer[3] * scale[1]), gold)
    return float(overlap >= threshold) if threshold > 0 else overlap


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes; 0 where one of them is empty or its corners are swapped."""
    areas = [(x2 - x1) * (y2 - y1) if x2 > x1 and y2 > y1 else 0.0 for x1, y1, x2, y2 in (first, second)]
    if not all(areas):
        return 0.0
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (sum(areas) - shared)


def read_box(text: str) -> Box | None:
    """The last box that a text names."""
    found = _BOX.findall(" ".join(text.split()))
    return as_box(found[-1]) if found else None


def as_box(value: Any) -> Box | None:
    """Four finite numbers, or a text that names a box; None for anything else."""
    if isinstance(value, str):
        return read_box(value)
    if not isinstance(value, Sequence) or len(value) != 4:
        return None
    x1, y1, x2, y2 = map(float, value)
    return (x1, y1, x2, y2) if all(map(isfinite, (x1, y1, x2, y2))) else None


def _scale(item: Completion, coordinates: Coordinates, size_column: str, resized_column: str) -> tuple[float, float]:
    """Pixels of the original image per unit of the model's x and y."""
    if coordinates == "original":
        return 1.0, 1.0
    units: dict[str, tuple[float, float]] = {"thousandths": (1000.0, 1000.0), "unit": (1.0, 1.0)}
    if coordinates == "resized":
        units["resized"] = _size(item, resized_column)
    if coordinates not in units:
        raise ValueError(f"coordinates '{coordinates}' are unknown; there are original, resized, thousandths, unit")
    width, height = _size(item, size_column)
    return width / units[coordinates][0], height / units[coordinates][1]


def _size(item: Completion, column: str) -> tuple[float, float]:
    value = item.columns.get(column)
    if not isinstance(value, Sequence) or len(value) != 2 or not all(float(side) > 0 for side in value):
        raise ValueError(f"column '{column}' is {value!r}; it must be (width, height) in pixels")
    return float(value[0]), float(value[1])
