"""The parts of a report: frozen dataclasses that a study fills and ``page`` renders.

Text fields are plain text, which the page escapes. A blank line starts a paragraph. Shares are 0..1, and are shown in
percent where a column's unit is "%".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pivot_jax.eval.statistics import Interval
from pivot_jax.report.data_rows import DataRows

Value = str | int | float | Interval | None


@dataclass(frozen=True)
class Column:
    """A table column.

    ``unit`` "%" multiplies by 100. In ``signed`` columns, which hold differences, it is shown as "pts". Other
    units are shown unchanged.
    """

    title: str
    unit: str = ""
    digits: int = 1
    signed: bool = False
    note: str = ""  # tooltip
    link: str = ""  # address of a value that is text, with {} in its place; relative to the page


@dataclass(frozen=True)
class Table:
    """Rows of a name and values; ``columns`` describe the values.

    ``sources`` are, by row, the name in ``anchors`` of what the numbers of that row come from: each links there.
    ``anchors`` name the first of several rows. ``closed`` tables are shown on demand.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Value, ...]], ...]
    note: str = ""
    row_title: str = ""
    total: bool = False  # the last row is a sum
    sources: Mapping[str, str] = field(default_factory=dict)
    anchors: Mapping[str, str] = field(default_factory=dict)
    closed: bool = False

    def __post_init__(self) -> None:
        for name, values in self.rows:
            if len(values) != len(self.columns):
                raise ValueError(
                    f"table '{self.title}', row '{name}': {len(values)} values, {len(self.columns)} columns"
                )


@dataclass(frozen=True)
class Figure:
    """A chart as SVG text from ``plots``."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """The answer of one model."""

    model: str
    text: str
    right: bool | None = None


@dataclass(frozen=True)
class Card:
    """One example with its image (uint8 [H, W, 3])."""

    image: np.ndarray
    question: str
    gold: str = ""
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Cards:
    """Example answers."""

    title: str
    cards: tuple[Card, ...]
    note: str = ""


@dataclass(frozen=True)
class Response:
    """A sampled response, with a value for each column of its table."""

    text: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt, its images (uint8 [H, W, 3]; a text where one cannot be shown), and responses to it."""

    text: str
    images: tuple[np.ndarray | str, ...]
    responses: tuple[Response, ...]


@dataclass(frozen=True)
class Responses:
    """Prompts with responses as a table: one row per response. ``columns`` describe the responses' values."""

    title: str
    columns: tuple[Column, ...]
    prompts: tuple[Prompt, ...]
    note: str = ""

    def __post_init__(self) -> None:
        for prompt in self.prompts:
            for response in prompt.responses:
                if len(response.values) != len(self.columns):
                    raise ValueError(
                        f"responses '{self.title}': {len(response.values)} values, {len(self.columns)} columns"
                    )


@dataclass(frozen=True)
class Panel:
    """An image (uint8 [H, W, 3]) with a caption."""

    image: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class Grid:
    """Images in rows and columns, such as gradient maps: one row per question, one column per arm."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Panel | None, ...]], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for name, panels in self.rows:
            if len(panels) != len(self.columns):
                raise ValueError(
                    f"grid '{self.title}', row '{name}': {len(panels)} images, {len(self.columns)} columns"
                )


@dataclass(frozen=True)
class Listing:
    """Fixed-width text, such as a config. It is collapsed unless ``open``."""

    title: str
    text: str
    open: bool = False


@dataclass(frozen=True)
class Notice:
    """Something to look at, and what to do about it. ``level`` is "error", "warning" or "note"."""

    text: str
    fix: str
    level: str = "warning"


@dataclass(frozen=True)
class Notices:
    """Notices, the most important first; without any, the page says ``none``."""

    notices: tuple[Notice, ...]
    none: str


Block = Table | Figure | Cards | Responses | Grid | Listing | Notices | DataRows | str


@dataclass(frozen=True)
class Section:
    """A section. A block that is a string is prose."""

    title: str
    text: str = ""
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Fact:
    """One number at the top of the page."""

    label: str
    value: Value
    unit: str = ""
    note: str = ""
    digits: int = 1
    signed: bool = False


@dataclass(frozen=True)
class Report:
    """A whole page."""

    title: str
    subtitle: str = ""
    facts: tuple[Fact, ...] = ()
    summary: str = ""
    sections: tuple[Section, ...] = ()
    scope: tuple[str, ...] = ()  # limits: what this run does not show
    provenance: Mapping[str, str] = field(default_factory=dict)  # config, versions, hardware
