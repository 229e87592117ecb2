"""What a report is made of: plain frozen data that a study fills and ``page`` lays out.

Text fields are plain text, escaped by the page; a blank line starts a paragraph. Shares are 0..1 and shown in percent
where a column's unit is "%".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pivot_jax.eval.statistics import Interval

Value = str | int | float | Interval | None


@dataclass(frozen=True)
class Column:
    """A table column.

    ``unit`` "%" multiplies by 100 (in ``signed`` columns, which hold differences, the unit shown is "pts"); any other
    unit is shown as it is.
    """

    title: str
    unit: str = ""
    digits: int = 1
    signed: bool = False
    note: str = ""  # shown when pointed at


@dataclass(frozen=True)
class Table:
    """Rows of values; the first column is the row's name, the columns describe the others."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Value, ...]], ...]
    note: str = ""
    row_title: str = ""
    total: bool = False  # the last row is a sum

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
    """What one model said."""

    model: str
    text: str
    right: bool | None = None


@dataclass(frozen=True)
class Card:
    """One example with its picture (uint8 [H, W, 3])."""

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
class Picture:
    """A picture (uint8 [H, W, 3]) with a line below."""

    image: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class Grid:
    """Pictures in rows and columns, such as gradient maps: one row per question, one column per arm."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Picture | None, ...]], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for name, pictures in self.rows:
            if len(pictures) != len(self.columns):
                raise ValueError(
                    f"grid '{self.title}', row '{name}': {len(pictures)} pictures, {len(self.columns)} columns"
                )


@dataclass(frozen=True)
class Listing:
    """Fixed-width text, such as a printed table of parameters or a config; folded away unless ``open``."""

    title: str
    text: str
    open: bool = False


Block = Table | Figure | Cards | Grid | Listing | str


@dataclass(frozen=True)
class Section:
    """A chapter; a block that is a string is prose."""

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
    scope: tuple[str, ...] = ()  # what this run does not show
    provenance: Mapping[str, str] = field(default_factory=dict)  # config, versions, hardware
