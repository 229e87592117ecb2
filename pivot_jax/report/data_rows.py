"""The part of a page that shows rows of data: images as the model sees them, tokens with the loss mask.

Text fields are plain text, which the page escapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Span:
    """Tokens that are shown as one piece of text.

    ``kind`` is "text", "special" or "image" (``count`` tokens of one image). ``changed``: not in the other answer.
    """

    text: str
    ids: tuple[int, ...]
    kind: str = "text"
    scored: bool = False
    changed: bool = False
    count: int = 1


@dataclass(frozen=True)
class Stream:
    """A title and the tokens below it. ``left_out`` tokens in the middle are not shown, at the span of this number."""

    title: str
    spans: tuple[Span, ...]
    left_out: int = 0
    left_out_at: int = 0


@dataclass(frozen=True)
class Shown:
    """An image, uint8 [h, w, 3], or a text where it cannot be shown.

    ``cell`` and ``tile`` are width and height, in percent of the image's, of what becomes one token and of its tiles;
    without them no lines are drawn.
    """

    image: np.ndarray | str
    caption: str
    cell: tuple[float, ...] = ()
    tile: tuple[float, ...] = ()


@dataclass(frozen=True)
class DataRow:
    """One row. ``answers`` are side by side; ``fields`` are (name, value, what reads it)."""

    title: str
    badges: tuple[str, ...]
    note: str
    images: tuple[Shown, ...]
    streams: tuple[Stream, ...]
    answers: tuple[Stream, ...] = ()
    fields: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class DataRows:
    """Rows, one after the other. The legend explains the loss mask (``scored``) and marked differences (``pairs``)."""

    title: str
    rows: tuple[DataRow, ...]
    note: str = ""
    scored: bool = True
    pairs: bool = False
